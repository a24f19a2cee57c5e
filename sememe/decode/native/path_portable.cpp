// The kernel for any processor: four floats at a time, which every 64-bit one has instructions for.
#include <float.h>
#include <math.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "kernel.h"

#define PATH path_portable
#define VL 4
#define SUMS 8
#define MOST_ROWS 2
#include "path.h"
