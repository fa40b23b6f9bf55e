"""Types of the public names, for type checkers and editors. A test compares them with what the package finds lazily."""

from hpcmpi.algorithms.bfs.graph import Graph as Graph
from hpcmpi.algorithms.bfs.graph import bfs as bfs
from hpcmpi.algorithms.matmul.library import matmul as matmul
from hpcmpi.algorithms.matmul.library import matmul_layout as matmul_layout
from hpcmpi.algorithms.matvec.library import matvec as matvec
from hpcmpi.algorithms.matvec.library import matvec_plan as matvec_plan
from hpcmpi.algorithms.reduce.library import dot as dot
from hpcmpi.algorithms.reduce.library import norm as norm
from hpcmpi.algorithms.reduce.library import reduce as reduce
from hpcmpi.algorithms.reduce.library import sum as sum  # noqa: A004 - NumPy's name
from hpcmpi.algorithms.sort.benchmark import gensort as gensort
from hpcmpi.algorithms.sort.benchmark import valsort as valsort
from hpcmpi.algorithms.sort.library import argsort as argsort
from hpcmpi.algorithms.sort.library import quantile as quantile
from hpcmpi.algorithms.sort.library import searchsorted as searchsorted
from hpcmpi.algorithms.sort.library import sort as sort
from hpcmpi.algorithms.sort.library import sort_by as sort_by
from hpcmpi.algorithms.sort.library import unique as unique

__version__: str
