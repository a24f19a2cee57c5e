// The beam search down the tree, level by level; every number of a row is the same whatever rows are beside it.

struct Search {
  const Model& model;
  const Trie& trie;
  Workspace& work;
  Request& request;
  const float* hidden;   // (N, D)
  float* first;          // (N, L * H) what the position gives to the hidden layer of each level
  int64_t stride;        // W: the most hypotheses of a row at any level
  int32_t* nodes;        // (N, W) live nodes of the tree, ascending
  float* totals;         // (N, W)
  int32_t* written;      // (N, W, L) codes of the live hypotheses
  int64_t* counts;       // (N,) live hypotheses
  Kept kept;
  Closed* closed;        // (N,)
  const float* dense;    // (queries, K) logits of all codes, for the queries of nodes with most of them below
};

INLINE int64_t model_node(const Trie& trie, int64_t depth, int64_t node) {
  const int32_t* const nodes = trie.model_nodes[depth];
  return nodes ? nodes[node] : node;
}

INLINE int64_t child_count(const Model& model, int64_t level, int64_t node) {
  const int32_t* const starts = model.level[level].child_starts;
  return starts[node + 1] - starts[node];
}

// Weighs a child of the live hypothesis of a row.
INLINE void offer(Search& search, int64_t row, int64_t depth, int64_t node, float score) {
  Kept& kept = search.kept;
  // Also turns away what is minus infinity.
  if (!(score >= kept.least)) return;
  const uint64_t key = key_of(score, node);
  if (would_keep(kept, key) && open_below(search.trie, search.closed[row], depth, node)) put(kept, key);
}

// Weighs the children of a node of the tree.  logits: of the model's children, the first of them `model_first`; filled
// up with NOTHING to a full vector.
static void offer_children(Search& search, int64_t row, int64_t level, int64_t node, const float* logits,
                           int64_t model_first, float normalizer, float total) {
  const int32_t* const starts = search.trie.child_starts[level];
  const int32_t* const to_model = search.trie.model_nodes[level + 1];
  const int64_t first = starts[node], count = starts[node + 1] - first;
  if (to_model) {
    for (int64_t j = 0; j < count; j++)
      offer(search, row, level + 1, first + j, total + (logits[to_model[first + j] - model_first] - normalizer));
    return;
  }
  // The model has the same children.
  for (int64_t j = 0; j < count; j += VL) {
    const Vector scores = total + (load(logits + j) - normalizer);
    if (!any_reaches(scores, search.kept.least)) continue;
    for (int64_t i = j; i < count && i < j + VL; i++)
      offer(search, row, level + 1, first + i, total + (logits[i] - normalizer));
  }
}

static void start_row(Search& search) {
  search.kept.count = 0;
  search.kept.least = -FLT_MAX;
}

// What the next level looks up of a node first of all.
INLINE void expect_children(const Search& search, int64_t level, int64_t node) {
  const Level& part = search.model.level[level];
  __builtin_prefetch(search.trie.child_starts[level] + node);
  // Trees of the same items are numbered alike; in others, the place is not known yet.
  if (part.first_vector && !search.trie.model_nodes[level]) __builtin_prefetch(part.first_vector + node);
}

// Makes what was kept the live hypotheses of the next depth, or the list where that is the last.
static void end_row(Search& search, int64_t row, int64_t level) {
  const Trie& trie = search.trie;
  Kept& kept = search.kept;
  const int64_t width = search.stride, levels = trie.levels;
  if (level + 1 == levels) {
    sort_up(kept.keys, kept.count);
    list_items(trie, search.closed[row], kept, search.request, row);
    return;
  }
  // By node: the halves of the key change places.
  for (int64_t i = 0; i < kept.count; i++) kept.keys[i] = kept.keys[i] << 32 | kept.keys[i] >> 32;
  sort_up(kept.keys, kept.count);
  int32_t* const nodes = search.nodes + row * width;
  int32_t* const written = search.written + row * width * levels;
  int32_t* const old_nodes = room<int32_t>(search.work, OLD_NODES, width);
  int32_t* const old_written = room<int32_t>(search.work, OLD_WRITTEN, width * levels);
  memcpy(old_nodes, nodes, search.counts[row] * sizeof(int32_t));
  memcpy(old_written, written, search.counts[row] * levels * sizeof(int32_t));
  const int32_t* const ends = trie.child_starts[level] + 1;
  for (int64_t i = 0, parent = 0; i < kept.count; i++) {
    const int64_t node = (int64_t)(kept.keys[i] >> 32);
    // Parents and children are both in order.
    while (ends[old_nodes[parent]] <= node) parent++;
    nodes[i] = (int32_t)node;
    expect_children(search, level + 1, node);
    search.totals[row * width + i] = score_of(kept.keys[i] << 32);
    memcpy(written + i * levels, old_written + parent * levels, level * sizeof(int32_t));
    written[i * levels + level] = (int32_t)code_at(trie.child_codes[level], node);
  }
  search.counts[row] = kept.count;
}

INLINE void count_work(const Request& request, int64_t level, int64_t asked, int64_t compared) {
  if (!request.work) return;
  request.work[2 * level] += asked;
  request.work[2 * level + 1] += compared;
}

static int not_a_number(Request& request, int64_t row) {
  request.fault_row = row;
  return NOT_A_NUMBER;
}

// The root's children, for rows `first` to `last`.
static int open_level(Search& search, int64_t first, int64_t last) {
  const Model& model = search.model;
  const int64_t rows = last - first, hidden = model.hidden, padded = model.padded, wide = model.levels * hidden;
  float* const inner = room<float>(search.work, INNER, rows * hidden);
  float* const asking = room<float>(search.work, ASKING, rows * padded);
  float* const logits = room<float>(search.work, LOGITS, rows * model.root.out);
  for (int64_t i = 0; i < rows; i++)
    for (int64_t d = 0; d < hidden; d += VL)
      store(inner + i * hidden + d, gelu(load(search.first + (first + i) * wide + d)));
  memcpy(asking, search.hidden + first * padded, rows * padded * sizeof(float));
  product(model.level[0].narrow, inner, rows, asking, true);
  product(model.root, asking, rows, logits, false);
  for (int64_t row = first; row < last; row++) {
    float* const own = logits + (row - first) * model.root.out;
    float most;
    const float normalizer = log_sum(own, model.root.out, &most);
    if (normalizer != normalizer) return not_a_number(search.request, row);
    start_row(search);
    search.counts[row] = 1;
    search.nodes[row * search.stride] = 0;
    offer_children(search, row, 0, 0, own, 0, normalizer, 0.0f);
    end_row(search, row, 0);
  }
  count_work(search.request, 0, rows, rows * model.root.out);
  return FINE;
}

// The hidden layer of one query, (H,): what the position says, and what was written since.
static void fill_hidden(const Search& search, int64_t row, int64_t level, const int32_t* written, float* out) {
  const Level& part = search.model.level[level];
  const int64_t hidden = search.model.hidden;
  const float* const base = search.first + (row * search.model.levels + level) * hidden;
  for (int64_t d = 0; d < hidden; d += VL) {
    Vector sum = load(base + d);
    if (part.told)
      for (int64_t before = 0; before < level; before++) sum += load(part.told[before] + written[before] * hidden + d);
    store(out + d, gelu(sum));
  }
}

// The codes below a node will be looked up soon.
INLINE void expect_codes(const Level& part, int64_t node, int64_t count) {
  const char* const codes = (const char*)part.child_codes.at + part.child_starts[node] * part.child_codes.bytes;
  for (int64_t at = 0; at < count * part.child_codes.bytes; at += 64) __builtin_prefetch(codes + at);
}

// A product of all codes takes about half as long per code as comparing children one by one.  What decides is the node
// alone: sums come out otherwise in the last bits, and a row must not depend on the rows beside it.
INLINE bool has_most_codes(const Level& part, int64_t count) { return part.told && part.by_code.out && 2 * count > part.by_code.out; }

// The queries of all hypotheses of rows `first` to `last` that have a choice, (queries, D); where no code is read, one
// per row.
static float* ask(Search& search, int64_t level, int64_t first, int64_t last, int64_t most) {
  const Model& model = search.model;
  const Level& part = model.level[level];
  const int64_t hidden = model.hidden, padded = model.padded, width = search.stride;
  float* const inner = room<float>(search.work, INNER, most * hidden);
  float* const asking = room<float>(search.work, ASKING, most * padded);
  float* const dense_asking = room<float>(search.work, DENSE_ASKING, most * padded);
  int64_t* const dense_places = room<int64_t>(search.work, DENSE_PLACES, most);
  int64_t asked = 0, num_dense = 0;
  for (int64_t row = first; row < last; row++)
    for (int64_t beam = 0; beam < search.counts[row]; beam++) {
      const int64_t slot = row * width + beam;
      const int64_t node = model_node(search.trie, level, search.nodes[slot]);
      const int64_t count = child_count(model, level, node);
      if (count < 2) continue;
      expect_codes(part, node, count);
      if (has_most_codes(part, count)) dense_places[num_dense++] = asked;
      fill_hidden(search, row, level, search.written + slot * model.levels, inner + asked * hidden);
      memcpy(asking + asked++ * padded, search.hidden + row * padded, padded * sizeof(float));
      if (!part.told) break;
    }
  if (asked) product(part.narrow, inner, asked, asking, true);
  for (int64_t i = 0; i < num_dense; i++)
    memcpy(dense_asking + i * padded, asking + dense_places[i] * padded, padded * sizeof(float));
  float* const dense = room<float>(search.work, DENSE, num_dense * part.by_code.out);
  if (num_dense) product(part.by_code, dense_asking, num_dense, dense, false);
  search.dense = dense;
  count_work(search.request, level, asked, 0);
  return asking;
}

// logits[j] = query times the output vector of child j of a node of the model.
template <typename Number>
static void compare_children(Search& search, int64_t level, int64_t node, const Number* vectors, const float* query,
                             int64_t count, float* logits) {
  const Level& part = search.model.level[level];
  const int64_t padded = search.model.padded, first = part.child_starts[node];
  const Number** const at = room<const Number*>(search.work, POINTERS, count);
  for (int64_t j = 0; j < count; j++)
    at[j] = vectors + (part.first_vector ? part.first_vector[node] + j : code_at(part.child_codes, first + j)) * padded;
  compare(query, at, 0, padded, count, logits);
}

// The same from the logits of all codes that come next.
static void pick_children(Search& search, const Level& part, int64_t node, int64_t count, float* logits) {
  const int64_t first = part.child_starts[node];
  for (int64_t j = 0; j < count; j++) logits[j] = search.dense[code_at(part.child_codes, first + j)];
  search.dense += part.by_code.out;
}

// One row's hypotheses, whose queries follow each other from `asking` on; moves it behind them.
static int choose(Search& search, int64_t level, int64_t row, const float*& asking) {
  const Model& model = search.model;
  const Level& part = model.level[level];
  bool asked = false;
  start_row(search);
  for (int64_t beam = 0; beam < search.counts[row]; beam++) {
    const int64_t slot = row * search.stride + beam;
    const int64_t node = model_node(search.trie, level, search.nodes[slot]);
    const int64_t count = child_count(model, level, node), first = part.child_starts[node];
    if (count < 2) {
      // An only child is certain.
      offer(search, row, level + 1, search.trie.child_starts[level][search.nodes[slot]], search.totals[slot]);
      continue;
    }
    float* const logits = room<float>(search.work, LOGITS, count + PANEL);
    if (has_most_codes(part, count)) pick_children(search, part, node, count, logits);
    else if (part.half_vectors) compare_children(search, level, node, part.half_vectors, asking, count, logits);
    else compare_children(search, level, node, part.vectors, asking, count, logits);
    float most;
    const float normalizer = log_sum(logits, count, &most);
    if (normalizer != normalizer) return not_a_number(search.request, row);
    // Where the best child falls behind, all do.
    if (search.totals[slot] + (most - normalizer) >= search.kept.least)
      offer_children(search, row, level, search.nodes[slot], logits, first, normalizer, search.totals[slot]);
    count_work(search.request, level, 0, count);
    asked = true;
    if (part.told) asking += model.padded;
  }
  if (asked && !part.told) asking += model.padded;
  end_row(search, row, level);
  return FINE;
}

// What the positions give to the hidden layer of a level.
static void fill_first(Search& search, int64_t level) {
  const int64_t panels = search.model.hidden / PANEL;
  product(search.model.first, search.hidden, search.model.padded, search.request.rows, level * panels,
          (level + 1) * panels,
          Target{search.first + level * search.model.hidden, search.model.levels * search.model.hidden, nullptr, false,
                 false});
}

static bool has_choice(const Search& search, int64_t level) {
  for (int64_t row = 0; row < search.request.rows; row++)
    for (int64_t beam = 0; beam < search.counts[row]; beam++) {
      const int64_t node = search.nodes[row * search.stride + beam];
      if (child_count(search.model, level, model_node(search.trie, level, node)) > 1) return true;
    }
  return false;
}

// One level below the first, as many rows at a time as make full products.
static int walk_level(Search& search, int64_t level) {
  if (has_choice(search, level)) fill_first(search, level);
  for (int64_t first = 0, last; first < search.request.rows; first = last) {
    int64_t live = 0;
    for (last = first; last < search.request.rows && live < ROWS_AT_ONCE; last++) live += search.counts[last];
    const float* asking = ask(search, level, first, last, live + 1);
    for (int64_t row = first; row < last; row++) {
      const int answer = choose(search, level, row, asking);
      if (answer != FINE) return answer;
    }
  }
  return FINE;
}

// Distinct allowed positions of the items that a row has seen, ascending.
static int close_row_items(Search& search, int64_t row, uint64_t* seen) {
  Request& request = search.request;
  Closed& closed = search.closed[row];
  closed = Closed{request.allowed ? request.allowed[row] : nullptr,
                  request.allowed ? request.allowed_before[row] : nullptr, seen, 0};
  int64_t found = 0;
  for (int64_t i = 0; i < request.seen_stride; i++) {
    const int64_t item = request.seen[row * request.seen_stride + i];
    if (item == -1) continue;
    request.fault_row = row;
    request.fault_value = item;
    if (item < 0 || item >= search.trie.num_known) return BAD_SEEN;
    const int64_t position = search.trie.positions[item];
    if (position >= 0 && is_allowed(closed, position)) seen[found++] = (uint64_t)position;
  }
  sort_up(seen, found);
  for (int64_t i = 0; i < found; i++)
    if (!closed.num_seen || seen[closed.num_seen - 1] != seen[i]) seen[closed.num_seen++] = seen[i];
  if (request.out_eligible) request.out_eligible[row] = open_between(closed, 0, search.trie.num_items);
  return FINE;
}

static int walk(const Model& model, const Trie& trie, Workspace& work, Request& request, const float* hidden) {
  const int64_t rows = request.rows, levels = trie.levels;
  const int64_t stride = levels > 1 && request.first_width > request.width ? request.first_width : request.width;
  Search search = {model, trie, work, request, hidden,
                   room<float>(work, FIRST, rows * levels * model.hidden), stride,
                   room<int32_t>(work, NODES, rows * stride), room<float>(work, TOTALS, rows * stride),
                   room<int32_t>(work, WRITTEN, rows * stride * levels),
                   room<int64_t>(work, COUNTS, rows), {room<uint64_t>(work, KEPT, stride), 0, stride, 0.0f},
                   room<Closed>(work, CLOSED, rows), nullptr};
  uint64_t* const seen = room<uint64_t>(work, SEEN, rows * request.seen_stride + 1);
  for (int64_t row = 0; row < rows; row++) {
    const int answer = close_row_items(search, row, seen + row * request.seen_stride);
    if (answer != FINE) return answer;
  }
  fill_first(search, 0);
  for (int64_t first = 0; first < rows; first += TOGETHER) {
    const int answer = open_level(search, first, rows - first < TOGETHER ? rows : first + TOGETHER);
    if (answer != FINE) return answer;
  }
  search.kept.width = request.width;
  for (int64_t level = 1; level < levels; level++) {
    const int answer = walk_level(search, level);
    if (answer != FINE) return answer;
  }
  return FINE;
}
