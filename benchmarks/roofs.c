/* The two roofs of this machine that ternary inference meets: how fast it reads memory, how fast it multiplies bytes.
 *
 *   cc -O2 -pthread roofs.c -o roofs
 *   ./roofs THREADS MIB PASSES WHAT...      e.g.  ./roofs 1,2 1024 7 huge small int8
 *
 * huge, small: a buffer of MIB MiB in 2 MiB or in 4 KiB pages, summed; every thread has one contiguous part. Each kernel
 * that the processor can run is timed, the one with the best median is reported.
 * int8: dot products of registers in 12 independent accumulators, the same way.
 * A time runs from the first thread's start to the last one's end; the first of PASSES + 1 passes does not count.
 * Threads are pinned, one to a processor. The output is one JSON object. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#if defined(__aarch64__)
#include <sys/auxv.h>
#endif

#define HUGE_PAGE ((size_t)2 << 20)
#define MAX_THREADS 256
#define MAX_PASSES 99
#define DOT_LOOPS 4000000

static volatile uint64_t sink; /* sums go here, so that no loop is optimized away */

static void fail(const char *what) {
    fprintf(stderr, "roofs: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Kernels. A reader sums bytes [p, p + n), n a multiple of 512. A dot loop does DOT_LOOPS x 12 steps. Accumulators are
 * single variables, because compilers keep arrays of vectors in memory. */

static int always(void) { return 1; }

#define READER(name, attributes, width)                                                                                \
    attributes static uint64_t name(const uint8_t *p, size_t n) {                                                      \
        typedef uint64_t vec __attribute__((vector_size(width), may_alias));                                           \
        vec s0 = {0}, s1 = s0, s2 = s0, s3 = s0, s4 = s0, s5 = s0, s6 = s0, s7 = s0;                                   \
        const vec *end = (const vec *)(p + n);                                                                         \
        for (const vec *q = (const vec *)p; q < end; q += 8) {                                                         \
            s0 += q[0], s1 += q[1], s2 += q[2], s3 += q[3];                                                            \
            s4 += q[4], s5 += q[5], s6 += q[6], s7 += q[7];                                                            \
        }                                                                                                              \
        s0 += s1 + s2 + s3 + s4 + s5 + s6 + s7;                                                                        \
        return s0[0] + s0[1];                                                                                          \
    }

#define DOT_STEP(acc, code) __asm__ volatile(code : "+" VECTOR(acc) : VECTOR(a), VECTOR(b) : TEMPORARY);
#define DOT(name, attributes, width, code)                                                                             \
    attributes static void name(void) {                                                                                \
        typedef uint8_t vec __attribute__((vector_size(width)));                                                       \
        vec a = (vec){0} + 201, b = (vec){0} + 87; /* of zeros the processor makes less heat */                        \
        vec s0 = {0}, s1 = s0, s2 = s0, s3 = s0, s4 = s0, s5 = s0;                                                     \
        vec s6 = s0, s7 = s0, s8 = s0, s9 = s0, s10 = s0, s11 = s0;                                                    \
        for (long i = 0; i < DOT_LOOPS; i++) {                                                                         \
            DOT_STEP(s0, code) DOT_STEP(s1, code) DOT_STEP(s2, code) DOT_STEP(s3, code)                                \
            DOT_STEP(s4, code) DOT_STEP(s5, code) DOT_STEP(s6, code) DOT_STEP(s7, code)                                \
            DOT_STEP(s8, code) DOT_STEP(s9, code) DOT_STEP(s10, code) DOT_STEP(s11, code)                              \
        }                                                                                                              \
    }

#if defined(__x86_64__)

#define FOR(isa) __attribute__((target(isa)))
#define VECTOR(x) "v"(x)
#define TEMPORARY "xmm15"

static int has_avx2(void) { return __builtin_cpu_supports("avx2"); }
static int has_avx512(void) { return __builtin_cpu_supports("avx512f"); }
static int has_avx512_vnni(void) { return __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vl"); }
static int has_avx_vnni(void) { return __builtin_cpu_supports("avxvnni"); }

READER(read_sse2, , 16)
READER(read_avx2, FOR("avx2"), 32)
READER(read_avx512, FOR("avx512f"), 64)

DOT(dot_avx2, FOR("avx2"), 32,
    "vpmaddubsw %2, %1, %%ymm15\n\tvpmaddwd %2, %%ymm15, %%ymm15\n\tvpaddd %%ymm15, %0, %0")
DOT(dot_ymm_vex, FOR("avx2"), 32, "%{vex%} vpdpbusd %2, %1, %0")
DOT(dot_ymm, FOR("avx512vnni,avx512vl"), 32, "%{evex%} vpdpbusd %2, %1, %0")
DOT(dot_zmm, FOR("avx512vnni,avx512f"), 64, "vpdpbusd %2, %1, %0")

#elif defined(__aarch64__)

#define VECTOR(x) "w"(x)
#define TEMPORARY "v31"

static int has_dotprod(void) { return (getauxval(AT_HWCAP) >> 20) & 1; }
static int has_i8mm(void) { return (getauxval(AT_HWCAP2) >> 13) & 1; }

READER(read_neon, , 16)

DOT(dot_neon, , 16, "smull v31.8h, %1.8b, %2.8b\n\tsmlal2 v31.8h, %1.16b, %2.16b\n\tsadalp %0.4s, v31.8h")
DOT(dot_sdot, , 16, ".arch_extension dotprod\n\tsdot %0.4s, %1.16b, %2.16b")
DOT(dot_smmla, , 16, ".arch_extension i8mm\n\tsmmla %0.4s, %1.16b, %2.16b")

#else
#error "roofs.c knows x86-64 and 64-bit ARM"
#endif

static const struct reader {
    const char *name;
    int (*available)(void);
    uint64_t (*run)(const uint8_t *, size_t);
} readers[] = {
#if defined(__x86_64__)
    {"avx512", has_avx512, read_avx512},
    {"avx2", has_avx2, read_avx2},
    {"sse2", always, read_sse2},
#elif defined(__aarch64__)
    {"neon", always, read_neon},
#endif
};

static const struct dot {
    const char *name;
    int (*available)(void);
    void (*run)(void);
    int macs; /* multiply-adds of one step */
} dots[] = {
#if defined(__x86_64__)
    {"vpdpbusd zmm", has_avx512_vnni, dot_zmm, 64},
    {"vpdpbusd ymm", has_avx512_vnni, dot_ymm, 32},
    {"vpdpbusd ymm vex", has_avx_vnni, dot_ymm_vex, 32},
    {"vpmaddubsw vpmaddwd vpaddd ymm", has_avx2, dot_avx2, 32},
#elif defined(__aarch64__)
    {"smmla", has_i8mm, dot_smmla, 32},
    {"sdot", has_dotprod, dot_sdot, 16},
    {"smull smlal sadalp", always, dot_neon, 16},
#endif
};

/* Threads: all wait for each other, run once, and the span from the first start to the last end counts. */

struct work {
    const struct reader *reader; /* or dot */
    const struct dot *dot;
    uint8_t *buffer; /* to sum; to fill where neither reader nor dot is given */
    size_t bytes;
    int cpu;
    double start, end;
    pthread_barrier_t *ready;
};

static void *run_work(void *argument) {
    struct work *work = argument;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(work->cpu, &one);
    if (sched_setaffinity(0, sizeof one, &one)) fail("sched_setaffinity");
    pthread_barrier_wait(work->ready);
    work->start = now();
    if (work->reader)
        sink += work->reader->run(work->buffer, work->bytes);
    else if (work->dot)
        work->dot->run();
    else
        memset(work->buffer, 1, work->bytes);
    work->end = now();
    return NULL;
}

static double seconds(struct work what, const int *cpus, int threads) {
    pthread_t thread[MAX_THREADS];
    struct work work[MAX_THREADS];
    pthread_barrier_t ready;
    pthread_barrier_init(&ready, NULL, (unsigned)threads);
    size_t part = what.bytes / (size_t)threads / 4096 * 4096;
    for (int i = 0; i < threads; i++) {
        work[i] = what;
        work[i].buffer = what.buffer + part * (size_t)i;
        work[i].bytes = i == threads - 1 ? what.bytes - part * (size_t)i : part;
        work[i].cpu = cpus[i];
        work[i].ready = &ready;
        if ((errno = pthread_create(&thread[i], NULL, run_work, &work[i]))) fail("pthread_create");
    }
    double start = 1e300, end = 0;
    for (int i = 0; i < threads; i++) {
        pthread_join(thread[i], NULL);
        if (work[i].start < start) start = work[i].start;
        if (work[i].end > end) end = work[i].end;
    }
    pthread_barrier_destroy(&ready);
    return end - start;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median_seconds(struct work what, const int *cpus, int threads, int passes) {
    double all[MAX_PASSES];
    seconds(what, cpus, threads);
    for (int i = 0; i < passes; i++) all[i] = seconds(what, cpus, threads);
    qsort(all, (size_t)passes, sizeof *all, by_value);
    return all[passes / 2];
}

/* Bytes of [start, start + bytes) that lie in 2 MiB pages, from /proc/self/smaps. */
static size_t huge_bytes(const uint8_t *start, size_t bytes) {
    FILE *file = fopen("/proc/self/smaps", "r");
    if (!file) fail("/proc/self/smaps");
    char line[512];
    unsigned long from, to, kib;
    size_t total = 0;
    int inside = 0;
    while (fgets(line, sizeof line, file)) {
        if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
            inside = from < (uintptr_t)start + bytes && to > (uintptr_t)start;
        else if (inside && sscanf(line, "AnonHugePages: %lu kB", &kib) == 1)
            total += (size_t)kib << 10;
    }
    fclose(file);
    return total < bytes ? total : bytes;
}

static const char *comma = "";

static void report_read(int huge, size_t bytes, const int *threads, int counts, const int *cpus, int passes) {
    size_t mapped = bytes + HUGE_PAGE;
    uint8_t *memory = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) fail("mmap");
    uint8_t *buffer = (uint8_t *)(((uintptr_t)memory + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE);
    /* A kernel without huge pages refuses the advice; what was obtained is measured below all the same. */
    madvise(memory, mapped, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    struct work work = {.buffer = buffer, .bytes = bytes};
    seconds(work, cpus, 1);
    double in_huge = (double)huge_bytes(buffer, bytes) / (double)bytes;
    for (int i = 0; i < counts; i++) {
        const struct reader *best = NULL;
        double least = 1e300;
        for (size_t k = 0; k < sizeof readers / sizeof *readers; k++) {
            if (!readers[k].available()) continue;
            work.reader = &readers[k];
            double time = median_seconds(work, cpus, threads[i], passes);
            if (time < least) least = time, best = &readers[k];
        }
        printf("%s{\"what\": \"read\", \"pages\": \"%s\", \"in_huge_pages\": %.3f, \"threads\": %d, "
               "\"kernel\": \"%s\", \"gb_s\": %.2f}",
               comma, huge ? "2 MiB" : "4 KiB", in_huge, threads[i], best->name, 1e-9 * (double)bytes / least);
        comma = ",\n ";
    }
    munmap(memory, mapped);
}

static void report_int8(const int *threads, int counts, const int *cpus, int passes) {
    for (int i = 0; i < counts; i++)
        for (size_t k = 0; k < sizeof dots / sizeof *dots; k++) {
            if (!dots[k].available()) continue;
            struct work work = {.dot = &dots[k]};
            double time = median_seconds(work, cpus, threads[i], passes);
            printf("%s{\"what\": \"int8\", \"threads\": %d, \"kernel\": \"%s\", \"gmac_s\": %.1f}", comma, threads[i],
                   dots[k].name, 1e-9 * DOT_LOOPS * 12 * dots[k].macs * threads[i] / time);
            comma = ",\n ";
        }
}

int main(int argc, char **argv) {
    int threads[16], counts = 0, cpus[MAX_THREADS], n_cpus = 0;
    size_t mib = argc > 2 ? strtoul(argv[2], NULL, 10) : 0;
    int passes = argc > 3 ? atoi(argv[3]) : 0;
    if (argc < 5 || mib < 2 || passes < 1 || passes > MAX_PASSES) {
        fprintf(stderr, "usage: roofs THREADS MIB PASSES WHAT...  (THREADS 1,2; MIB >= 2; PASSES 1 to %d; "
                        "WHAT huge, small or int8)\n", MAX_PASSES);
        return 2;
    }
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof allowed, &allowed)) fail("sched_getaffinity");
    for (int i = 0; i < CPU_SETSIZE && n_cpus < MAX_THREADS; i++)
        if (CPU_ISSET(i, &allowed)) cpus[n_cpus++] = i;
    for (char *part = strtok(argv[1], ","); part && counts < 16; part = strtok(NULL, ",")) {
        threads[counts] = atoi(part);
        if (threads[counts] < 1 || threads[counts] > n_cpus) {
            fprintf(stderr, "roofs: %s threads asked, 1 to %d processors are allowed here\n", part, n_cpus);
            return 2;
        }
        counts++;
    }
    printf("[");
    for (int i = 4; i < argc; i++) {
        if (!strcmp(argv[i], "huge") || !strcmp(argv[i], "small"))
            report_read(argv[i][0] == 'h', mib << 20, threads, counts, cpus, passes);
        else if (!strcmp(argv[i], "int8"))
            report_int8(threads, counts, cpus, passes);
        else {
            fprintf(stderr, "roofs: '%s' is not huge, small or int8\n", argv[i]);
            return 2;
        }
    }
    printf("]\n");
    return 0;
}
