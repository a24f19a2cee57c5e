// Reading a history: the causal transformer, of which the last layer answers for the last position alone.

static constexpr int64_t TOGETHER = 16;  // rows of a request that share the last layer's products

template <typename T>
INLINE T* room(Workspace& work, Slot slot, int64_t count) {
  const size_t bytes = (size_t)count * sizeof(T);
  return (T*)(bytes <= work.bytes[slot] ? work.at[slot] : grow(work, slot, bytes));
}

INLINE int64_t code_at(const Codes& codes, int64_t index) {
  if (codes.bytes == 1) return ((const uint8_t*)codes.at)[index];
  if (codes.bytes == 2) return ((const int16_t*)codes.at)[index];
  return ((const int32_t*)codes.at)[index];
}

// An item's codes will be looked up soon, and lie far from all others'.
INLINE void expect_item(const Model& model, int64_t item) {
  if (!model.item_vectors)
    __builtin_prefetch((const char*)model.item_codes.at + item * model.levels * model.item_codes.bytes);
}

// x (D,) = the vector of an item at a position.
static void embed(const Model& model, int64_t item, int64_t position, float* x) {
  const int64_t padded = model.padded;
  const float* const place = model.positions + position * padded;
  if (model.item_vectors) {
    const float* const vector = model.item_vectors + item * padded;
    for (int64_t d = 0; d < padded; d += VL) store(x + d, load(vector + d) + load(place + d));
    return;
  }
  memcpy(x, place, padded * sizeof(float));
  for (int64_t level = 0; level < model.levels; level++) {
    const float* const vector = model.read[level] + code_at(model.item_codes, item * model.levels + level) * padded;
    for (int64_t d = 0; d < padded; d += VL) store(x + d, load(x + d) + load(vector + d));
  }
}

// out (columns,) = weights (count,) times values (count, columns), `PARTS` panels of columns at a time.
template <int PARTS>
static void mix(const float* weights, float scale, const float* values, int64_t stride, int64_t count, float* out) {
  Vector sums[PARTS * LANES] = {};
  for (int64_t t = 0; t < count; t++)
    for (int j = 0; j < PARTS * LANES; j++) sums[j] += weights[t] * load(values + t * stride + j * VL);
  for (int j = 0; j < PARTS * LANES; j++) store(out + j * VL, sums[j] * scale);
}

// What one position reads: query (A,) against `count` positions whose keys and values stand `stride` apart.
static void attend(const Model& model, const float* query, const float* const* positions, int64_t stride,
                   int64_t count, float* scores, float* out) {
  const int64_t head = model.head, width = model.heads * head;
  for (int64_t h = 0; h < width; h += head) {
    compare(query + h, positions, h, head, count, scores);
    const float scale = soften(scores, count);
    const float* const values = positions[0] + width + h;
    int64_t d = 0;
    for (; d + 4 * PANEL <= head; d += 4 * PANEL) mix<4>(scores, scale, values + d, stride, count, out + h + d);
    for (; d < head; d += PANEL) mix<1>(scores, scale, values + d, stride, count, out + h + d);
  }
}

// What reading a request works on.
struct Reading {
  const Model& model;
  Workspace& work;
  const Request& request;
  int64_t kept;         // floats that a state holds per position: keys and values of every layer
  float* fresh;         // states of rows that start anew, one after the other
  float* tail;          // (TOGETHER, D) last positions on their way through the last layer
  float* tail_normed;   // the same after the layer's first norm
  float* tail_state[TOGETHER];
  int64_t tail_row[TOGETHER];
  int64_t tails;
};

INLINE int64_t past_of(const Request& request, int64_t row) { return request.states ? request.states[row].past : 0; }

// Keys and values of `count` new positions from `normed` (count, D), put where the rows' states are.
static void keep_keys_values(Reading& reading, int64_t first, int64_t last, int64_t layer, const float* normed,
                             int64_t count) {
  const Product& weights = reading.model.blocks[layer].key_value;
  const int64_t width = weights.out, panels = width / PANEL;
  const Request& request = reading.request;
  if (!request.states) {
    product(weights, normed, weights.in, count, 0, panels,
            Target{reading.fresh + layer * width, reading.kept, nullptr, false, false});
    return;
  }
  float* const made = room<float>(reading.work, KEYS_VALUES, count * width);
  product(weights, normed, count, made, false);
  const float* from = made;
  for (int64_t row = first; row < last; row++) {
    float* const state = request.states[row].values + request.states[row].past * reading.kept + layer * width;
    for (int64_t t = 0; t < request.counts[row]; t++, from += width)
      memcpy(state + t * reading.kept, from, width * sizeof(float));
  }
}

// Where keys and values of the first `count` positions of a state stand.
static const float* const* positions_of(Reading& reading, const float* state, int64_t layer, int64_t count) {
  const float** const at = room<const float*>(reading.work, POINTERS, count);
  const float* const first = state + layer * 2 * reading.model.heads * reading.model.head;
  for (int64_t t = 0; t < count; t++) at[t] = first + t * reading.kept;
  return at;
}

// x (count, D) += attention of a layer; `normed` as for the keys.
static void attend_rows(Reading& reading, int64_t first, int64_t last, int64_t layer, const float* normed,
                        int64_t count, float* x) {
  const Model& model = reading.model;
  const Request& request = reading.request;
  const Block& block = model.blocks[layer];
  const int64_t width = block.query.out;
  float* query = room<float>(reading.work, QUERIES, count * width);
  float* const mixed = room<float>(reading.work, MIXED, count * width);
  product(block.query, normed, count, query, false);
  float* out = mixed;
  const float* fresh = reading.fresh;
  for (int64_t row = first; row < last; row++) {
    const int64_t past = past_of(request, row), more = request.counts[row];
    const float* const state = request.states ? request.states[row].values : fresh;
    const float* const* const at = positions_of(reading, state, layer, past + more);
    float* const scores = room<float>(reading.work, SCORES, past + more + PANEL);
    for (int64_t t = 0; t < more; t++, query += width, out += width)
      attend(model, query, at, reading.kept, past + t + 1, scores, out);
    fresh += more * reading.kept;
  }
  product(block.joined, mixed, count, x, true);
}

// Reads rows `first` to `last`, `count` new positions in all, up to the last layer's queries.
static void read_rows(Reading& reading, int64_t first, int64_t last, int64_t count) {
  const Model& model = reading.model;
  const Request& request = reading.request;
  float* const x = room<float>(reading.work, INPUT, count * model.padded);
  float* const normed = room<float>(reading.work, NORMED, count * model.padded);
  float* const inner = room<float>(reading.work, WIDE, count * DEPTH);
  float* to = x;
  for (int64_t row = first; row < last; row++)
    for (int64_t t = 0; t < request.counts[row]; t++)
      expect_item(model, request.items[row * request.item_stride + t]);
  for (int64_t row = first; row < last; row++)
    for (int64_t t = 0; t < request.counts[row]; t++, to += model.padded)
      embed(model, request.items[row * request.item_stride + t], past_of(request, row) + t, to);
  for (int64_t layer = 0; layer < model.layers; layer++) {
    const Block& block = model.blocks[layer];
    normalize(model, block.attention_norm, x, count, normed);
    keep_keys_values(reading, first, last, layer, normed, count);
    if (layer + 1 == model.layers) break;
    attend_rows(reading, first, last, layer, normed, count, x);
    normalize(model, block.ff_norm, x, count, normed);
    feed_forward(block.wide, block.narrow, normed, count, inner, x);
  }
  int64_t end = 0;
  for (int64_t row = first; row < last; row++) {
    const int64_t start = end;
    end += request.counts[row];
    if (end == start) continue;
    const int64_t to_row = reading.tails++;
    reading.tail_row[to_row] = row;
    reading.tail_state[to_row] = request.states ? request.states[row].values : reading.fresh + start * reading.kept;
    memcpy(reading.tail + to_row * model.padded, x + (end - 1) * model.padded, model.padded * sizeof(float));
    memcpy(reading.tail_normed + to_row * model.padded, normed + (end - 1) * model.padded,
           model.padded * sizeof(float));
  }
  reading.fresh += count * reading.kept;
}

// The last layer at the last positions, and the last norm: fills `hidden` (N, D) at the rows of the tails.
static void finish_tails(Reading& reading, float* hidden) {
  const Model& model = reading.model;
  const Request& request = reading.request;
  const int64_t layer = model.layers - 1, count = reading.tails;
  const Block& block = model.blocks[layer];
  const int64_t width = block.query.out;
  float* const query = room<float>(reading.work, QUERIES, count * width);
  float* const mixed = room<float>(reading.work, MIXED, count * width);
  product(block.query, reading.tail_normed, count, query, false);
  for (int64_t i = 0; i < count; i++) {
    const int64_t row = reading.tail_row[i];
    const int64_t positions = past_of(request, row) + request.counts[row];
    const float* const* const at = positions_of(reading, reading.tail_state[i], layer, positions);
    float* const scores = room<float>(reading.work, SCORES, positions + PANEL);
    attend(model, query + i * width, at, reading.kept, positions, scores, mixed + i * width);
  }
  product(block.joined, mixed, count, reading.tail, true);
  normalize(model, block.ff_norm, reading.tail, count, reading.tail_normed);
  float* const inner = room<float>(reading.work, WIDE, count * DEPTH);
  feed_forward(block.wide, block.narrow, reading.tail_normed, count, inner, reading.tail);
  normalize(model, model.norm, reading.tail, count, reading.tail_normed);
  for (int64_t i = 0; i < count; i++) {
    const float* const from = reading.tail_normed + i * model.padded;
    memcpy(hidden + reading.tail_row[i] * model.padded, from, model.padded * sizeof(float));
    if (request.states)
      memcpy(request.states[reading.tail_row[i]].hidden, from, model.padded * sizeof(float));
  }
}

static int check_items(const Model& model, Request& request) {
  for (int64_t row = 0; row < request.rows; row++) {
    request.fault_row = row;
    request.fault_value = request.counts[row];
    if (request.fault_value < 0 || request.fault_value > request.item_stride) return BAD_LENGTH;
    request.fault_value += past_of(request, row);
    if (request.fault_value > model.max_history) return TOO_LONG;
    for (int64_t t = 0; t < request.counts[row]; t++) {
      const int64_t item = request.items[row * request.item_stride + t];
      request.fault_value = item;
      if (item < 0 || item >= model.num_items) return BAD_ITEM;
    }
  }
  return FINE;
}

// Reads what is new of every row; `hidden` (N, D) then says what comes after each, 0 for an empty history.
static void read(const Model& model, Workspace& work, const Request& request, float* hidden) {
  const int64_t kept = model.layers * 2 * model.heads * model.head;
  Reading reading = {model, work, request, kept, nullptr, room<float>(work, TAIL, TOGETHER * model.padded),
                     room<float>(work, TAIL_NORMED, TOGETHER * model.padded), {}, {}, 0};
  for (int64_t group = 0; group < request.rows; group += TOGETHER) {
    const int64_t end = request.rows - group < TOGETHER ? request.rows : group + TOGETHER;
    int64_t positions = 0;
    for (int64_t row = group; row < end; row++) positions += request.counts[row];
    if (!request.states) reading.fresh = room<float>(work, STATE_ROWS, positions * kept);
    reading.tails = 0;
    for (int64_t first = group, last; first < end; first = last) {
      int64_t count = 0;
      for (last = first; last < end && (last == first || count + request.counts[last] <= ROWS_AT_ONCE); last++)
        count += request.counts[last];
      if (count) read_rows(reading, first, last, count);
    }
    if (reading.tails) finish_tails(reading, hidden);
  }
}
