// Matrix products: rows of activations times panels of weights, blocked for registers and the nearest caches.
//
// Every number is summed over the input's columns in their order, whatever the blocking: a row's result does not depend
// on the rows beside it, and a cached history gives the very numbers of one that is read anew.

static constexpr int LANES = PANEL / VL;  // vectors per panel

// Panels that a tile of `rows` rows covers at once: enough sums under way to hide the latency of a multiply-add.
static constexpr int panels_for(int rows) {
  return rows * LANES * 4 <= SUMS ? 4 : rows * LANES * 2 <= SUMS ? 2 : 1;
}

struct Target {
  float* at;
  int64_t stride;
  const float* bias;  // null: none
  bool add;           // to what is there
  bool with_gelu;
};

alignas(64) static const float ZEROS[4 * PANEL] = {};

// One row of a panel.
INLINE void load_row(const float* from, Vector* to) {
  UNROLL for (int v = 0; v < LANES; v++) to[v] = load(from + v * VL);
}

INLINE void load_row(const uint16_t* from, Vector* to) {
#if VL == 16
  typedef int32_t Words __attribute__((vector_size(32), aligned(2), may_alias));
  const Words words = *(const Words*)from;
  typedef int32_t Plain __attribute__((vector_size(32)));
#if defined(__clang__) || __GNUC__ >= 12
  to[0] = (Vector)SHUFFLE((Plain)(words << 16), (Plain)(words & (int32_t)0xffff0000), 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10,
                          11, 12, 13, 14, 15);
#else
  // Older compilers shuffle vectors into none that are longer.
  const union { Plain halves[2]; Vector whole; } joined = {{(Plain)(words << 16), (Plain)(words & (int32_t)0xffff0000)}};
  to[0] = joined.whole;
#endif
#else
  typedef int32_t Words __attribute__((vector_size(4 * VL), aligned(2), may_alias));
  UNROLL for (int v = 0; v < LANES / 2; v++) {
    const Words words = *(const Words*)(from + 2 * v * VL);
    to[v] = (Vector)(Integers)(words << 16);
    to[v + LANES / 2] = (Vector)(Integers)(words & (int32_t)0xffff0000);
  }
#endif
}

// out[j] = query (width,) times row j, for j < count; `out` is written up to the next multiple of VL.  Rows of bf16 are
// laid out as panels are, PANEL columns after the other.
template <typename Number>
static void compare(const float* query, const Number* const* rows, int64_t offset, int64_t width, int64_t count,
                    float* out) {
  for (int64_t first = 0; first < count; first += VL) {
    const Number* at[VL];
    // The last row stands in for those that a full vector lacks.
    for (int j = 0; j < VL; j++) at[j] = rows[first + j < count ? first + j : count - 1] + offset;
    Vector sums[VL] = {};
    for (int64_t d = 0; d < width; d += PANEL)
      UNROLL for (int j = 0; j < VL; j++) {
        Vector row[LANES];
        load_row(at[j] + d, row);
        UNROLL for (int v = 0; v < LANES; v++) sums[j] += load(query + d + v * VL) * row[v];
      }
    store(out + first, sums_of(sums));
  }
}

// (ROWS, PANELS * PANEL) of the result; `panels` points at the first panel, the others follow `depth` * PANEL apart.
template <typename Number, int ROWS, int PANELS, bool ADD, bool GELU>
static __attribute__((noinline)) void tile(const float* a, int64_t stride, const Number* panels, int64_t depth,
                                           const float* bias, float* to, int64_t to_stride) {
  constexpr int WIDE = PANELS * LANES;
  Vector sums[ROWS][WIDE];
  UNROLL for (int i = 0; i < ROWS; i++)
    UNROLL for (int j = 0; j < WIDE; j++) {
      sums[i][j] = load(bias + j * VL);
      if (ADD) sums[i][j] += load(to + i * to_stride + j * VL);
    }
  const Number* const end = panels + depth * PANEL;
  do {
    Vector weights[WIDE];
    UNROLL for (int j = 0; j < PANELS; j++) load_row(panels + j * depth * PANEL, weights + j * LANES);
    UNROLL for (int i = 0; i < ROWS; i++) {
      const Vector x = all(a[i * stride]);
      UNROLL for (int j = 0; j < WIDE; j++) sums[i][j] += x * weights[j];
    }
    a++;
    panels += PANEL;
  } while (panels != end);
  UNROLL for (int i = 0; i < ROWS; i++)
    UNROLL for (int j = 0; j < WIDE; j++) store(to + i * to_stride + j * VL, GELU ? gelu(sums[i][j]) : sums[i][j]);
}

template <typename Number>
using Tile = void (*)(const float*, int64_t, const Number*, int64_t, const float*, float*, int64_t);

template <typename Number, int ROWS, bool ADD, bool GELU>
static Tile<Number> find_rows(int64_t rows, int panels) {
  if constexpr (ROWS > 1)
    if (rows < ROWS) return find_rows<Number, ROWS - 1, ADD, GELU>(rows, panels);
  if constexpr (panels_for(ROWS) >= 4)
    if (panels == 4) return tile<Number, ROWS, 4, ADD, GELU>;
  if constexpr (panels_for(ROWS) >= 2)
    if (panels == 2) return tile<Number, ROWS, 2, ADD, GELU>;
  return tile<Number, ROWS, 1, ADD, GELU>;
}

template <typename Number>
static Tile<Number> find_tile(int64_t rows, int panels, const Target& to) {
  if (to.add && to.with_gelu) return find_rows<Number, MOST_ROWS, true, true>(rows, panels);
  if (to.add) return find_rows<Number, MOST_ROWS, true, false>(rows, panels);
  if (to.with_gelu) return find_rows<Number, MOST_ROWS, false, true>(rows, panels);
  return find_rows<Number, MOST_ROWS, false, false>(rows, panels);
}

// a (rows, depth) times panels `first` to `last` of one block of weights; rows in parts that differ by one at most.
template <typename Number>
static void multiply_rows(const float* a, int64_t stride, int64_t rows, const Number* block, int64_t depth,
                          int64_t first, int64_t last, const Target& to) {
  const int64_t parts = (rows + MOST_ROWS - 1) / MOST_ROWS;
  const int64_t fewest = rows / parts, longer = rows % parts;
  const int step = panels_for((int)(fewest + (longer > 0)));
  for (int64_t panel = first; panel < last;) {
    const int together = panel + step <= last ? step : 1;
    const Tile<Number> of_longer = find_tile<Number>(fewest + 1, together, to);
    const Tile<Number> of_fewest = find_tile<Number>(fewest, together, to);
    const int64_t column = (panel - first) * PANEL;
    const float* const bias = to.bias ? to.bias + column : ZEROS;
    for (int64_t row = 0, part = 0; part < parts; part++) {
      const bool is_longer = part < longer;
      (is_longer ? of_longer : of_fewest)(a + row * stride, stride, block + panel * depth * PANEL, depth, bias,
                                          to.at + row * to.stride + column, to.stride);
      row += fewest + is_longer;
    }
    panel += together;
  }
}

// a (rows, depth) times the input rows from `from` on, panels `first` to `last`: as many rows at once as leave room for
// a panel in the nearest cache.
static void multiply(const Product& weights, int64_t from, int64_t depth, const float* a, int64_t stride, int64_t rows,
                     int64_t first, int64_t last, const Target& to) {
  for (int64_t row = 0; row < rows; row += ROWS_AT_ONCE) {
    const int64_t now = rows - row < ROWS_AT_ONCE ? rows - row : ROWS_AT_ONCE;
    Target here = to;
    here.at += row * to.stride;
    const float* const rows_of_a = a + row * stride;
    const int64_t start = from * weights.out;
    if (weights.halves) multiply_rows(rows_of_a, stride, now, weights.halves + start, depth, first, last, here);
    else multiply_rows(rows_of_a, stride, now, weights.panels + start, depth, first, last, here);
  }
}

// to = [to +] bias + a (rows, in) times the columns of panels `first` to `last`; then gelu where asked for.
static void product(const Product& weights, const float* a, int64_t stride, int64_t rows, int64_t first, int64_t last,
                    const Target& to) {
  for (int64_t from = 0; from < weights.in; from += DEPTH) {
    const int64_t depth = weights.in - from < DEPTH ? weights.in - from : DEPTH;
    Target here = to;
    here.bias = from ? nullptr : weights.bias + first * PANEL;
    here.add = to.add || from > 0;
    here.with_gelu = to.with_gelu && from + depth == weights.in;
    multiply(weights, from, depth, a + from, stride, rows, first, last, here);
  }
}

static void product(const Product& weights, const float* a, int64_t rows, float* out, bool add) {
  product(weights, a, weights.in, rows, 0, weights.out / PANEL, Target{out, weights.out, nullptr, add, false});
}

// x (rows, in) += narrow(gelu(wide(normed))), the inner rows DEPTH columns at a time, so that they stay near.
static void feed_forward(const Product& wide, const Product& narrow, const float* normed, int64_t rows, float* inner,
                         float* x) {
  for (int64_t from = 0; from < wide.out; from += DEPTH) {
    const int64_t depth = wide.out - from < DEPTH ? wide.out - from : DEPTH;
    product(wide, normed, wide.in, rows, from / PANEL, (from + depth) / PANEL,
            Target{inner, DEPTH, nullptr, false, true});
    multiply(narrow, from, depth, inner, DEPTH, rows, 0, narrow.out / PANEL,
             Target{x, narrow.out, from ? nullptr : narrow.bias, true, false});
  }
}

// (rows, D) layer norm over the first `width` columns.
static void normalize(const Model& model, const Norm& norm, const float* x, int64_t rows, float* out) {
  const int64_t padded = model.padded;
  for (int64_t i = 0; i < rows; i++, x += padded, out += padded) {
    Vector total = {};
    for (int64_t d = 0; d < padded; d += VL) total += load(x + d);
    const float mean = sum_of(total) / model.width;
    Vector squares = {};
    for (int64_t d = 0; d < padded; d += VL) {
      const Vector off = (load(x + d) - mean) * load(model.mask + d);
      squares += off * off;
    }
    const float scale = 1.0f / sqrtf(sum_of(squares) / model.width + model.epsilon);
    for (int64_t d = 0; d < padded; d += VL)
      store(out + d, (load(x + d) - mean) * (scale * load(norm.gain + d)) + load(norm.bias + d));
  }
}
