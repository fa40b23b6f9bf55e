/* ScaLAPACK's pdgemm / psgemm on C = A B, timed barrier to barrier and checked: the peer of `hpcmpi matmul`.
 *
 * Usage: matmul_scalapack N BLOCK PANEL GRID_ROWS GRID_COLUMNS REPEAT; BLOCK = 0 times one local gemm a rank
 * on (N / ranks x N) times (N x N) instead, without communication. PANEL is the width of the panels that the
 * product moves and multiplies at a time. One JSON object on standard output; the status is 3 if the product is wrong.
 *
 * Every element is a function of its matrix and its global index, so A, B and C need no distribution step, and
 * the check, C x = A (B x) for vectors x of its own making, uses nothing of ScaLAPACK.
 */
#include <mpi.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef SINGLE
typedef float real;
#define GEMM sgemm_
#define NUMPY_GEMM scipy_sgemm_64_
#define PGEMM psgemm_
#define TOLERANCE 1e-4
#else
typedef double real;
#define GEMM dgemm_
#define NUMPY_GEMM scipy_dgemm_64_
#define PGEMM pdgemm_
#define TOLERANCE 1e-12
#endif

enum { CHECK_VECTORS = 3, MAX_REPEATS = 1000 };

void NUMPY_GEMM(const char *, const char *, const int64_t *, const int64_t *, const int64_t *, const real *,
                const real *, const int64_t *, const real *, const int64_t *, const real *, real *, const int64_t *,
                size_t, size_t);
void PGEMM(const char *, const char *, const int *, const int *, const int *, const real *, const real *, const int *,
           const int *, const int *, const real *, const int *, const int *, const int *, const real *, real *,
           const int *, const int *, const int *);
int numroc_(const int *n, const int *block, const int *coordinate, const int *source, const int *extent);
void descinit_(int *descriptor, const int *m, const int *n, const int *mb, const int *nb, const int *row_source,
               const int *column_source, const int *context, const int *leading, int *info);
void Cblacs_get(int context, int what, int *value);
void Cblacs_gridinit(int *context, const char *order, int rows, int columns);
void Cblacs_gridinfo(int context, int *rows, int *columns, int *row, int *column);

static const int ZERO = 0, ONE = 1;
static int panel;

/* ScaLAPACK asks for this name and finds it here, since the program comes before its libraries: so it multiplies
 * with the very library that NumPy brings, whose names and integers differ. */
void GEMM(const char *transpose_a, const char *transpose_b, const int *m, const int *n, const int *k, const real *alpha,
          const real *a, const int *lda, const real *b, const int *ldb, const real *beta, real *c, const int *ldc)
{
    int64_t rows = *m, columns = *n, inner = *k, a_leading = *lda, b_leading = *ldb, c_leading = *ldc;
    NUMPY_GEMM(transpose_a, transpose_b, &rows, &columns, &inner, alpha, a, &a_leading, b, &b_leading, beta, c,
               &c_leading, 1, 1);
}

/* ScaLAPACK's own tuning hook: its default of 32 columns a panel makes each local gemm too thin to run at speed. */
int pilaenv_(const int *context, const char *precision)
{
    (void)context;
    (void)precision;
    return panel;
}

typedef struct {
    int block, rows, columns, row, column, local_rows, local_columns;
} Layout;

static int64_t global_index(int local, int block, int coordinate, int extent)
{
    return ((int64_t)(local / block) * extent + coordinate) * block + local % block;
}

/* Uniform on [-0.5, 0.5): splitmix64's mixing of a matrix's number and an element's index. */
static double element(uint64_t matrix, uint64_t index)
{
    uint64_t z = (matrix << 56) + (index + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (double)((z ^ (z >> 31)) >> 11) * 0x1p-53 - 0.5;
}

static void *allocate(int64_t count, size_t size)
{
    void *memory = calloc(count > 0 ? (size_t)count : 1, size);
    if (!memory) {
        fprintf(stderr, "matmul_scalapack: not enough memory\n");
        MPI_Abort(MPI_COMM_WORLD, 75);
    }
    return memory;
}

static void fill(real *values, uint64_t matrix, int n, const Layout *layout)
{
    for (int j = 0; j < layout->local_columns; j++) {
        int64_t column = global_index(j, layout->block, layout->column, layout->columns);
        for (int i = 0; i < layout->local_rows; i++) {
            int64_t row = global_index(i, layout->block, layout->row, layout->rows);
            values[(int64_t)j * layout->local_rows + i] = (real)element(matrix, (uint64_t)(row * n + column));
        }
    }
}

/* product = matrix * vector, complete on every rank, summed in double whatever the matrix's type. */
static void apply(const real *matrix, const double *vector, double *product, int n, const Layout *layout)
{
    memset(product, 0, (size_t)n * sizeof *product);
    for (int j = 0; j < layout->local_columns; j++) {
        double factor = vector[global_index(j, layout->block, layout->column, layout->columns)];
        for (int i = 0; i < layout->local_rows; i++)
            product[global_index(i, layout->block, layout->row, layout->rows)] +=
                (double)matrix[(int64_t)j * layout->local_rows + i] * factor;
    }
    MPI_Allreduce(MPI_IN_PLACE, product, n, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
}

/* Sum over a few vectors x of |C x - A (B x)| / (n/12 |x|), where n/12 |x| is the size of C x for elements like
 * these. A sum, as it stays "not a number" once it is, where a maximum would forget. */
static double relative_error(const real *A, const real *B, const real *C, int n, const Layout *layout)
{
    double *x = allocate(3 * (int64_t)n, sizeof *x), *image = x + n, *expected = image + n, error = 0;
    for (uint64_t vector = 0; vector < CHECK_VECTORS; vector++) {
        double difference = 0, length = 0;
        for (int i = 0; i < n; i++)
            x[i] = element(2 + vector, (uint64_t)i);
        apply(B, x, image, n, layout);
        apply(A, image, expected, n, layout);
        apply(C, x, image, n, layout);
        for (int i = 0; i < n; i++) {
            difference += (image[i] - expected[i]) * (image[i] - expected[i]);
            length += x[i] * x[i];
        }
        error += sqrt(difference / length) / (n / 12.0);
    }
    free(x);
    return error;
}

static int ascending(const void *left, const void *right)
{
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

int main(int argc, char **argv)
{
    int size, rank, context;
    double seconds[MAX_REPEATS];
    real one = 1, zero = 0;

    MPI_Init(&argc, &argv);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    if (argc != 7) {
        fprintf(stderr, "usage: matmul_scalapack N BLOCK PANEL GRID_ROWS GRID_COLUMNS REPEAT\n");
        MPI_Abort(MPI_COMM_WORLD, 2);
    }
    int n = atoi(argv[1]), block = atoi(argv[2]), repeats = atoi(argv[6]), local = block == 0;
    Layout layout = {.block = block, .rows = atoi(argv[4]), .columns = atoi(argv[5])};
    panel = atoi(argv[3]);
    if (n < 1 || repeats < 1 || repeats > MAX_REPEATS || (!local && layout.rows * layout.columns != size)) {
        fprintf(stderr, "matmul_scalapack: N >= 1, 1 <= REPEAT <= 1000 and a grid of %d ranks are needed\n", size);
        MPI_Abort(MPI_COMM_WORLD, 2);
    }

    int64_t a_count, b_count, c_count;
    int descriptor[9], rows = n / size > 0 ? n / size : 1, info;
    if (local) {
        a_count = c_count = (int64_t)rows * n;
        b_count = (int64_t)n * n;
    } else {
        Cblacs_get(-1, 0, &context);
        Cblacs_gridinit(&context, "Row", layout.rows, layout.columns);
        Cblacs_gridinfo(context, &layout.rows, &layout.columns, &layout.row, &layout.column);
        layout.local_rows = numroc_(&n, &block, &layout.row, &ZERO, &layout.rows);
        layout.local_columns = numroc_(&n, &block, &layout.column, &ZERO, &layout.columns);
        int leading = layout.local_rows > 0 ? layout.local_rows : 1;
        descinit_(descriptor, &n, &n, &block, &block, &ZERO, &ZERO, &context, &leading, &info);
        a_count = b_count = c_count = (int64_t)layout.local_rows * layout.local_columns;
    }
    real *A = allocate(a_count, sizeof *A), *B = allocate(b_count, sizeof *B), *C = allocate(c_count, sizeof *C);
    if (local) {
        for (int64_t i = 0; i < a_count; i++)
            A[i] = (real)element(0, (uint64_t)i);
        for (int64_t i = 0; i < b_count; i++)
            B[i] = (real)element(1, (uint64_t)i);
    } else {
        fill(A, 0, n, &layout);
        fill(B, 1, n, &layout);
    }

    for (int repeat = 0; repeat < repeats; repeat++) {
        MPI_Barrier(MPI_COMM_WORLD);
        double start = MPI_Wtime();
        if (local)
            GEMM("N", "N", &rows, &n, &n, &one, A, &rows, B, &n, &zero, C, &rows);
        else
            PGEMM("N", "N", &n, &n, &n, &one, A, &ONE, &ONE, descriptor, B, &ONE, &ONE, descriptor, &zero, C, &ONE,
                  &ONE, descriptor);
        double elapsed = MPI_Wtime() - start;
        MPI_Allreduce(&elapsed, &seconds[repeat], 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
    }
    qsort(seconds, (size_t)repeats, sizeof *seconds, ascending);
    double error = local ? 0 : relative_error(A, B, C, n, &layout);
    if (rank == 0)
        printf("{\"seconds_min\": %.6f, \"seconds_median\": %.6f, \"seconds_max\": %.6f, \"relative_error\": %.3e}\n",
               seconds[0], (seconds[(repeats - 1) / 2] + seconds[repeats / 2]) / 2, seconds[repeats - 1], error);
    MPI_Finalize();
    return error <= TOLERANCE ? 0 : 3;
}
