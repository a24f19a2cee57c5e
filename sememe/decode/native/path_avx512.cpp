// The kernel for x86 processors with AVX-512 (F, BW, DQ, VL).
#if defined(__x86_64__)
#include <float.h>
#include <math.h>
#include <string.h>

#include "kernel.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma,popcnt"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma,popcnt")
#endif
#define PATH path_avx512
#define VL 16
#define SUMS 24
#define MOST_ROWS 10
#include "path.h"
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
