# shellcheck shell=bash
# Where h5ingest is and how its ranks are started. All job scripts source this file: it is the one
# place to edit for your cluster. Each setting can also come from the environment:
#   H5INGEST_MPI=pmix sbatch ingest.sbatch manifest.csv out.h5

# 1. Where h5ingest is: modules and a virtual environment ...
# module purge
# module load python gcc openmpi hdf5-mpi
venv=${H5INGEST_VENV:-}             # its folder, such as ~/h5ingest-venv; empty: h5ingest is on PATH
#    ... or the container (docker/README.md)
image=${H5INGEST_IMAGE:-}           # such as ~/h5ingest.sif; empty: no container
bind=${H5INGEST_BIND:-/scratch}     # folders that the container sees, with commas between them

# 2. How ranks are started: by srun with a word that `srun --mpi=list` lists (pmi2 for MPICH, Intel
#    MPI and MVAPICH; pmix for Open MPI; cray_shasta on HPE Cray), or by your MPI's own mpirun.
mpi=${H5INGEST_MPI:-pmi2}

# 3. Settings of MPI and HDF5: `h5ingest doctor OUT` says what is needed here, and why.
# export OMPI_MCA_io=romio321       # Open MPI 4.1 on Lustre
export OMP_NUM_THREADS=1            # a rank is one core

if [[ -n $venv ]]; then
  export PATH=$venv/bin:$PATH
fi
program=(h5ingest)
if [[ -n $image ]]; then
  program=(apptainer exec --bind "$bind" "$image" h5ingest)
fi
case $mpi in
  # mpirun goes on waiting for a node that is gone: only --time, or scancel, ends it (README.md).
  *mpirun* | *mpiexec*) launch=("$mpi") ;;
  # Without the second option a rank that dies leaves the others waiting until the time limit.
  *) launch=(srun --mpi="$mpi" --kill-on-bad-exit=1) ;;
esac
# Older SLURMs tell the number of ranks only if it was asked for as such.
ranks=${SLURM_NTASKS:-$((SLURM_JOB_NUM_NODES * ${SLURM_NTASKS_PER_NODE:-1}))}
# shellcheck disable=SC2034  # it is what the job scripts run
h5ingest=("${launch[@]}" -n "$ranks" "${program[@]}")
