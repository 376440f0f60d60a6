/* What one rank asks of MPI: calls by name, bytes that it hands over, bytes that it is handed.
 *
 * The profiling interface of the MPI standard (chapter 15, "PMPI"): each MPI_X here counts and then
 * calls PMPI_X. HDF5's own calls count too, not what MPI does inside of MPI-IO and collectives.
 *
 *   mpicc -shared -fPIC -O2 mpi_messages.c -o mpi_messages.so
 *   MPI_MESSAGES=folder mpirun -n 4 env LD_PRELOAD=$PWD/mpi_messages.so h5ingest manifest.csv out.h5
 *
 * writes folder/RANK with a line "name calls sent received" for each function. mpi_messages.py does
 * all of this.
 */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_NAMES 64

static struct { const char *name; long long calls, sent, received; } told[MOST_NAMES];

static void count(const char *name, long long sent, long long received)
{
    int i = 0;
    while (i < MOST_NAMES - 1 && told[i].name && strcmp(told[i].name, name))
        i++;
    told[i].name = name;
    told[i].calls++;
    told[i].sent += sent;
    told[i].received += received;
}

static long long bytes(long long n, MPI_Datatype type)
{
    int size = 0;
    if (type == MPI_DATATYPE_NULL)
        return 0;
    PMPI_Type_size(type, &size);
    return n * size;
}

static int rank_of(MPI_Comm comm) { int r; PMPI_Comm_rank(comm, &r); return r; }
static int size_of(MPI_Comm comm) { int n; PMPI_Comm_size(comm, &n); return n; }

/* Each function once for `int` counts and, since MPI 4, once for MPI_Count (the name ends in _c). */
#define BOTH(S, INT, AINT)                                                                         \
static long long sum##S(const INT counts[], MPI_Comm c)                                            \
{ long long n = 0; for (int i = 0; counts && i < size_of(c); i++) n += counts[i]; return n; }      \
int MPI_Isend##S(const void *b, INT n, MPI_Datatype t, int to, int tag, MPI_Comm c, MPI_Request *r)\
{ count("Isend", bytes(n, t), 0); return PMPI_Isend##S(b, n, t, to, tag, c, r); }                  \
int MPI_Recv##S(void *b, INT n, MPI_Datatype t, int from, int tag, MPI_Comm c, MPI_Status *s)      \
{ count("Recv", 0, bytes(n, t)); return PMPI_Recv##S(b, n, t, from, tag, c, s); }                  \
int MPI_Bcast##S(void *b, INT n, MPI_Datatype t, int root, MPI_Comm c)                             \
{ int me = rank_of(c) == root; count("Bcast", me ? bytes(n, t) : 0, me ? 0 : bytes(n, t));         \
  return PMPI_Bcast##S(b, n, t, root, c); }                                                        \
int MPI_Ibcast##S(void *b, INT n, MPI_Datatype t, int root, MPI_Comm c, MPI_Request *r)            \
{ int me = rank_of(c) == root; count("Ibcast", me ? bytes(n, t) : 0, me ? 0 : bytes(n, t));        \
  return PMPI_Ibcast##S(b, n, t, root, c, r); }                                                    \
int MPI_Allreduce##S(const void *a, void *b, INT n, MPI_Datatype t, MPI_Op o, MPI_Comm c)          \
{ count("Allreduce", bytes(n, t), bytes(n, t)); return PMPI_Allreduce##S(a, b, n, t, o, c); }      \
int MPI_Iallreduce##S(const void *a, void *b, INT n, MPI_Datatype t, MPI_Op o, MPI_Comm c,         \
                      MPI_Request *r)                                                              \
{ count("Iallreduce", bytes(n, t), bytes(n, t)); return PMPI_Iallreduce##S(a, b, n, t, o, c, r); } \
int MPI_Igather##S(const void *a, INT n, MPI_Datatype t, void *b, INT m, MPI_Datatype u, int root, \
                   MPI_Comm c, MPI_Request *r)                                                     \
{ count("Igather", bytes(n, t), rank_of(c) == root ? bytes(m, u) * size_of(c) : 0);                \
  return PMPI_Igather##S(a, n, t, b, m, u, root, c, r); }                                          \
int MPI_Igatherv##S(const void *a, INT n, MPI_Datatype t, void *b, const INT m[], const AINT d[],  \
                    MPI_Datatype u, int root, MPI_Comm c, MPI_Request *r)                          \
{ count("Igatherv", bytes(n, t), rank_of(c) == root ? bytes(sum##S(m, c), u) : 0);                 \
  return PMPI_Igatherv##S(a, n, t, b, m, d, u, root, c, r); }                                      \
int MPI_Iallgather##S(const void *a, INT n, MPI_Datatype t, void *b, INT m, MPI_Datatype u,        \
                      MPI_Comm c, MPI_Request *r)                                                  \
{ count("Iallgather", bytes(n, t), bytes(m, u) * size_of(c));                                      \
  return PMPI_Iallgather##S(a, n, t, b, m, u, c, r); }                                             \
int MPI_Iallgatherv##S(const void *a, INT n, MPI_Datatype t, void *b, const INT m[],               \
                       const AINT d[], MPI_Datatype u, MPI_Comm c, MPI_Request *r)                 \
{ count("Iallgatherv", bytes(n, t), bytes(sum##S(m, c), u));                                       \
  return PMPI_Iallgatherv##S(a, n, t, b, m, d, u, c, r); }                                         \
int MPI_Ialltoall##S(const void *a, INT n, MPI_Datatype t, void *b, INT m, MPI_Datatype u,         \
                     MPI_Comm c, MPI_Request *r)                                                   \
{ count("Ialltoall", bytes(n, t) * size_of(c), bytes(m, u) * size_of(c));                          \
  return PMPI_Ialltoall##S(a, n, t, b, m, u, c, r); }                                              \
int MPI_Ialltoallv##S(const void *a, const INT n[], const AINT e[], MPI_Datatype t, void *b,       \
                      const INT m[], const AINT d[], MPI_Datatype u, MPI_Comm c, MPI_Request *r)   \
{ count("Ialltoallv", bytes(sum##S(n, c), t), bytes(sum##S(m, c), u));                             \
  return PMPI_Ialltoallv##S(a, n, e, t, b, m, d, u, c, r); }

BOTH(, int, int)
#if MPI_VERSION >= 4
BOTH(_c, MPI_Count, MPI_Aint)
#endif

int MPI_Barrier(MPI_Comm c) { count("Barrier", 0, 0); return PMPI_Barrier(c); }

int MPI_Ibarrier(MPI_Comm c, MPI_Request *r)
{
    count("Ibarrier", 0, 0);
    return PMPI_Ibarrier(c, r);
}

int MPI_Finalize(void)
{
    char name[4096];
    const char *folder = getenv("MPI_MESSAGES");
    if (folder) {
        snprintf(name, sizeof name, "%s/%d", folder, rank_of(MPI_COMM_WORLD));
        FILE *file = fopen(name, "w");
        for (int i = 0; file && i < MOST_NAMES && told[i].name; i++)
            fprintf(file, "%s %lld %lld %lld\n", told[i].name, told[i].calls, told[i].sent,
                    told[i].received);
        if (file)
            fclose(file);
    }
    return PMPI_Finalize();
}
