"""Batch: job files, their points, and whole runs of these, here or by Slurm.

Reads specs, costs and result files; starts whole ``hpcmpi`` processes and never MPI itself.

* :mod:`~hpcmpi.batch.document`: a TOML file whose errors name line and key;
* :mod:`~hpcmpi.batch.values`: TOML values as a command's own options;
* :mod:`~hpcmpi.batch.jobfile`: a job file, and the points of its sweep;
* :mod:`~hpcmpi.batch.state`: what became of a point, by what it left on the disk;
* :mod:`~hpcmpi.batch.estimates`: what a point will take;
* :mod:`~hpcmpi.batch.local`: points run here, one after another;
* :mod:`~hpcmpi.batch.clusters`: what the user's clusters want, from a file of the user;
* :mod:`~hpcmpi.batch.script`: sbatch scripts;
* :mod:`~hpcmpi.batch.slurm`: Slurm's own commands;
* :mod:`~hpcmpi.batch.submissions`: which array element is which point.
"""
