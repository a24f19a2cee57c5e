// Vectors of VL floats in the compiler's own notation, and the functions on them that networks need.
//
// Included once per path, inside its namespace and target region.  Nothing here may use templates of the standard
// library: their instances would be shared between paths, and the linker could keep one that this processor lacks.

typedef float Vector __attribute__((vector_size(4 * VL)));
typedef int32_t Integers __attribute__((vector_size(4 * VL)));
typedef float Unaligned __attribute__((vector_size(4 * VL), aligned(4), may_alias));

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (Integers){__VA_ARGS__})
#endif

// Stands for minus infinity where arithmetic has to stay finite.
static constexpr float NOTHING = -1e30f;
// Beyond it, the normal distribution function is 0 or 1 to fp32.
static constexpr float GELU_EDGE = 5.4f;

INLINE Vector load(const float* from) { return *(const Unaligned*)from; }
INLINE void store(float* to, Vector value) { *(Unaligned*)to = value; }
INLINE Vector all(float value) { return value - Vector{}; }
// A left operand that is not a number stays.  In the compiler's notation this becomes two instructions.
#if VL == 8
INLINE Vector larger(Vector a, Vector b) { return _mm256_max_ps(b, a); }
INLINE Vector smaller(Vector a, Vector b) { return _mm256_min_ps(b, a); }
#elif VL == 4 && defined(__x86_64__)
INLINE Vector larger(Vector a, Vector b) { return _mm_max_ps(b, a); }
INLINE Vector smaller(Vector a, Vector b) { return _mm_min_ps(b, a); }
#else
INLINE Vector larger(Vector a, Vector b) { return a < b ? b : a; }
INLINE Vector smaller(Vector a, Vector b) { return a > b ? b : a; }
#endif

// x times the normal distribution function, to 1e-6: a rational function of x squared, fitted for the least largest
// error (6e-9 before rounding) on [0, GELU_EDGE].
INLINE Vector gelu(Vector x) {
  const Vector inside = larger(x, all(-GELU_EDGE));
  const Vector z = smaller(inside, all(GELU_EDGE));
  const Vector s = z * z;
  Vector p = 2.338669e-8f * s + 6.3600269e-6f;
  Vector q = 1.2165901e-6f * s + 7.2400442e-5f;
  p = p * s + 1.6432248e-4f;
  q = q * s + 1.8589861e-3f;
  p = p * s + 4.6508564e-3f;
  q = q * s + 2.8378731e-2f;
  p = p * s + 3.3372305e-2f;
  q = q * s + 2.5031805e-1f;
  p = p * s + 3.9894223e-1f;
  q = q * s + 1.0f;
  return inside * (z * p / q + 0.5f);
}

// e to the x for x <= 0, to 2e-7 of the value; 1e-38 from -87 down.
INLINE Vector exponential(Vector x) {
  x = larger(x, all(-87.0f));
  // Adding 1.5 * 2^23 rounds to a whole number, which then stands in the lowest bits.
  const Vector shifted = x * 1.44269504f + 12582912.0f;
  const Vector power = shifted - 12582912.0f;
  // ln 2 in two parts, the first short enough for exact products.
  const Vector r = (x - power * 0.693359375f) + power * 2.12194440e-4f;
  Vector p = 8.3120493e-3f * r + 4.1894499e-2f;
  p = p * r + 1.6667134e-1f;
  p = p * r + 4.9999201e-1f;
  p = (p * r + 1.0f) * r + 1.0f;
  return (Vector)((Integers)p + ((Integers)shifted << 23));
}

INLINE float sum_of(Vector v) {
  float lanes[VL];
  store(lanes, v);
  for (int half = VL / 2; half; half /= 2)
    for (int i = 0; i < half; i++) lanes[i] += lanes[i + half];
  return lanes[0];
}

INLINE float largest_of(Vector v) {
  float lanes[VL];
  store(lanes, v);
  for (int half = VL / 2; half; half /= 2)
    for (int i = 0; i < half; i++) lanes[i] = lanes[i + half] > lanes[i] ? lanes[i + half] : lanes[i];
  return lanes[0];
}

// Whether any lane of `a` is at least `least`.
INLINE bool any_reaches(Vector a, float least) {
#if VL == 8
  return _mm256_movemask_ps(_mm256_cmp_ps(a, all(least), _CMP_GE_OQ)) != 0;
#elif VL == 4 && defined(__x86_64__)
  return _mm_movemask_ps(_mm_cmpge_ps(a, all(least))) != 0;
#else
  const Integers reaches = a >= all(least);
  int32_t any = 0;
  for (int i = 0; i < VL; i++) any |= reaches[i];
  return any != 0;
#endif
}

// Within groups of four lanes: sums of neighbours, those of `a` in the lower half of the group.
INLINE Vector sum_pairs(Vector a, Vector b) {
#if VL == 4
  return SHUFFLE(a, b, 0, 2, 4, 6) + SHUFFLE(a, b, 1, 3, 5, 7);
#elif VL == 8
  return SHUFFLE(a, b, 0, 2, 8, 10, 4, 6, 12, 14) + SHUFFLE(a, b, 1, 3, 9, 11, 5, 7, 13, 15);
#else
  return SHUFFLE(a, b, 0, 2, 16, 18, 4, 6, 20, 22, 8, 10, 24, 26, 12, 14, 28, 30) +
         SHUFFLE(a, b, 1, 3, 17, 19, 5, 7, 21, 23, 9, 11, 25, 27, 13, 15, 29, 31);
#endif
}

#if VL > 4
// Sums of neighbouring groups of four lanes, those of `a` in the lower half.
INLINE Vector sum_groups(Vector a, Vector b) {
#if VL == 8
  return SHUFFLE(a, b, 0, 1, 2, 3, 8, 9, 10, 11) + SHUFFLE(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
#else
  return SHUFFLE(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
         SHUFFLE(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
#endif
}
#endif

// Lane j: the sum of the lanes of v[j].
INLINE Vector sums_of(const Vector (&v)[VL]) {
  Vector four[VL / 4];
  for (int i = 0; i < VL / 4; i++)
    four[i] = sum_pairs(sum_pairs(v[4 * i], v[4 * i + 1]), sum_pairs(v[4 * i + 2], v[4 * i + 3]));
#if VL == 4
  return four[0];
#elif VL == 8
  return sum_groups(four[0], four[1]);
#else
  return sum_groups(sum_groups(four[0], four[1]), sum_groups(four[2], four[3]));
#endif
}

// Fills up to a full vector with NOTHING and returns the largest of the `count` values.
INLINE float close_row(float* values, int64_t count) {
  const int64_t end = (count + VL - 1) / VL * VL;
  for (int64_t j = count; j < end; j++) values[j] = NOTHING;
  Vector most = load(values);
  for (int64_t j = VL; j < end; j += VL) most = larger(load(values + j), most);
  return largest_of(most);
}

// Log of the summed exponentials of `count` values, whose last vector is filled up; not a number where one is not.
static float log_sum(float* values, int64_t count, float* largest) {
  const float most = *largest = close_row(values, count);
  Vector total = {};
  for (int64_t j = 0; j < count; j += VL) total += exponential(load(values + j) - most);
  return most + logf(sum_of(total));
}

// Replaces `count` values by their exponentials over the largest one and returns one over their sum.
static float soften(float* values, int64_t count) {
  const float most = close_row(values, count);
  Vector total = {};
  for (int64_t j = 0; j < count; j += VL) {
    const Vector power = exponential(load(values + j) - most);
    store(values + j, power);
    total += power;
  }
  return 1.0f / sum_of(total);
}
