/* A rank of mpiexec's in the bench of the process arm: meets the others, and goes. With an argument it prints, while
 * all are there, the memory that is its own alone, in kibibytes. */
#include <mpi.h>
#include <stdio.h>

static void print_private_memory(void) {
    char line[256];
    long sum = 0, kib;
    FILE *rollup = fopen("/proc/self/smaps_rollup", "r");
    while (rollup && fgets(line, sizeof line, rollup))
        if (sscanf(line, "Private_Clean: %ld", &kib) == 1 || sscanf(line, "Private_Dirty: %ld", &kib) == 1)
            sum += kib;
    printf("%ld\n", sum);
}

int main(int argc, char **argv) {
    MPI_Init(&argc, &argv);
    MPI_Barrier(MPI_COMM_WORLD);
    if (argc > 1) {
        print_private_memory();
        MPI_Barrier(MPI_COMM_WORLD);
    }
    return MPI_Finalize();
}
