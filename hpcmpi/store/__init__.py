"""HDF5 in and out: hyperslab reads, distributed writes into one ordinary file, checksums, atomic publication.

* :mod:`~hpcmpi.store.reader`: ``FILE[:/dataset]`` (HDF5 or ``.npy``), of which each rank reads only its part;
* :mod:`~hpcmpi.store.scratch`: files that end with the job, and whether there is room for them;
* :mod:`~hpcmpi.store.writer`: the one-file parallel writer;
* :mod:`~hpcmpi.store.publication`: partial files, the lock, and which attempt may replace which;
* :mod:`~hpcmpi.store.result`: what a result file holds, read back; without MPI;
* :mod:`~hpcmpi.store.checkpoint`: the last two checkpoints of a job.
"""
