// The best candidates of a row, and which of them lead to an item that may be listed.

// A candidate as one number: the better its score, the smaller; of equal scores, the lower node first.
INLINE uint64_t key_of(float score, int64_t node) {
  score += 0.0f;  // no negative zero: it equals zero, and its bits must too
  uint32_t bits;
  memcpy(&bits, &score, sizeof bits);
  const uint32_t rising = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return (uint64_t)~rising << 32 | (uint32_t)node;
}

INLINE float score_of(uint64_t key) {
  const uint32_t rising = ~(uint32_t)(key >> 32);
  const uint32_t bits = rising & 0x80000000u ? rising & 0x7fffffffu : ~rising;
  float score;
  memcpy(&score, &bits, sizeof score);
  return score;
}

INLINE int64_t node_of(uint64_t key) { return (int64_t)(key & 0xffffffffu); }

// Moves the number at `at` down to its place in a heap whose largest number comes first.
static void sink(uint64_t* heap, int64_t count, int64_t at) {
  const uint64_t value = heap[at];
  for (int64_t child = 2 * at + 1; child < count; child = 2 * at + 1) {
    if (child + 1 < count && heap[child + 1] > heap[child]) child++;
    if (heap[child] <= value) break;
    heap[at] = heap[child];
    at = child;
  }
  heap[at] = value;
}

static void sort_up(uint64_t* values, int64_t count) {
  for (int64_t at = count / 2 - 1; at >= 0; at--) sink(values, count, at);
  for (int64_t end = count - 1; end > 0; end--) {
    const uint64_t largest = values[0];
    values[0] = values[end];
    values[end] = largest;
    sink(values, end, 0);
  }
}

// The best `width` keys so far, once there are as many as a heap with the worst first.
struct Kept {
  uint64_t* keys;
  int64_t count, width;
  float least;  // no worse score can be kept
};

INLINE bool would_keep(const Kept& kept, uint64_t key) { return kept.count < kept.width || key < kept.keys[0]; }

static void put(Kept& kept, uint64_t key) {
  if (kept.count < kept.width) {
    kept.keys[kept.count++] = key;
    if (kept.count < kept.width) return;
    for (int64_t at = kept.width / 2 - 1; at >= 0; at--) sink(kept.keys, kept.width, at);
  } else {
    kept.keys[0] = key;
    sink(kept.keys, kept.width, 0);
  }
  kept.least = score_of(kept.keys[0]);
}

// Which positions a row may not list.
struct Closed {
  const uint64_t* allowed;  // null: all are
  const int32_t* before;
  const uint64_t* seen;     // ascending positions, all of them allowed
  int64_t num_seen;
};

INLINE bool is_allowed(const Closed& closed, int64_t position) {
  return !closed.allowed || (closed.allowed[position / 64] >> position % 64 & 1);
}

// Allowed positions before this one.
INLINE int64_t allowed_before(const Closed& closed, int64_t position) {
  if (position == 0) return 0;
  // From the word of the position before, which is there even where this one is the end.
  const int64_t word = (position - 1) / 64, used = position - word * 64;
  return closed.before[word] + __builtin_popcountll(closed.allowed[word] << (64 - used));
}

// Seen positions before this one.
static int64_t seen_before(const Closed& closed, int64_t position) {
  int64_t low = 0, high = closed.num_seen;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if ((int64_t)closed.seen[middle] < position) low = middle + 1;
    else high = middle;
  }
  return low;
}

// Allowed positions from `first` to `end`.
INLINE int64_t allowed_between(const Closed& closed, int64_t first, int64_t end) {
  const int64_t word = first / 64, count = end - first;
  // Most ranges lie in one word, which is then all that has to be fetched.
  if (count <= 0 || word != (end - 1) / 64) return allowed_before(closed, end) - allowed_before(closed, first);
  return __builtin_popcountll(closed.allowed[word] >> first % 64 << (64 - count));
}

// Positions from `first` to `end` that may be listed.
static int64_t open_between(const Closed& closed, int64_t first, int64_t end) {
  const int64_t all = closed.allowed ? allowed_between(closed, first, end) : end - first;
  if (!closed.num_seen || !all) return all;
  return all - (seen_before(closed, end) - seen_before(closed, first));
}

INLINE int64_t first_position(const Trie& trie, int64_t depth, int64_t node) {
  const int32_t* const starts = trie.item_starts[depth];
  return starts ? starts[node] : node;
}

// Items below a node that may be listed.
INLINE int64_t open_below(const Trie& trie, const Closed& closed, int64_t depth, int64_t node) {
  return open_between(closed, first_position(trie, depth, node), first_position(trie, depth, node + 1));
}

// The first `k` items of leaves in their order, and how many more score like the last of them.
static void list_items(const Trie& trie, const Closed& closed, const Kept& leaves, const Request& request,
                       int64_t row) {
  const int64_t k = request.k;
  int64_t* const items = request.out_items + row * k;
  float* const scores = request.out_scores + row * k;
  int64_t listed = 0, tied = 0;
  for (int64_t leaf = 0; leaf < leaves.count; leaf++) {
    const float score = score_of(leaves.keys[leaf]);
    const int64_t node = node_of(leaves.keys[leaf]);
    if (listed == k) {
      if (score != scores[k - 1]) break;
      tied += open_below(trie, closed, trie.levels, node);
      continue;
    }
    const int64_t first = first_position(trie, trie.levels, node), end = first_position(trie, trie.levels, node + 1);
    int64_t seen = seen_before(closed, first), here = 0;
    for (int64_t position = first; position < end && listed < k; position++) {
      if (closed.allowed && position % 64 == 0)
        while (position + 64 <= end && !closed.allowed[position / 64]) position += 64;
      if (position >= end) break;
      if (seen < closed.num_seen && (int64_t)closed.seen[seen] == position) {
        seen++;
        continue;
      }
      if (!is_allowed(closed, position)) continue;
      items[listed] = trie.items[position];
      scores[listed++] = score;
      here++;
    }
    if (listed == k) tied += open_between(closed, first, end) - here;
  }
  request.out_tied[row] = tied;
  for (; listed < k; listed++) {
    items[listed] = -1;
    scores[listed] = -INFINITY;
  }
}
