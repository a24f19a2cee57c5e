// The kernel's interface: plain structs whose fields are all eight bytes wide; structs.py mirrors those of models and
// trees field by field.
//
// Everything that the kernel reads belongs to the caller and stays as it is; what it needs while it works lies in a
// Workspace, one per thread, which grows on first use and is never given back to the system in between.
//
// Shape legend: N rows of a request, D width of the model, A = heads * padded head width, H hidden width of the depth
// networks, L levels, I items, P items in the tree, V_d nodes at depth d.  Widths are padded with zeros to multiples of
// PANEL, so that no loop over a row has a remainder.
#ifndef SEMEME_KERNEL_H
#define SEMEME_KERNEL_H

#include <stddef.h>
#include <stdint.h>

#define SEMEME_ABI 2
// Columns of a panel: a weight matrix (in, out) lies as blocks of DEPTH input rows, each block as panels of PANEL
// output columns, each panel as (rows of the block, PANEL).  In bf16, a word of a panel's row holds column w below and
// column w + PANEL / 2 above.
#define PANEL 16
#define DEPTH 128

extern "C" {

struct Codes {
  const void* at;
  int64_t bytes;  // of one code: 1, 2 or 4
};

struct Product {
  const float* panels;     // null where the weights are bf16
  const uint16_t* halves;  // then they are here, laid out alike
  const float* bias;  // (out,)
  int64_t in, out;    // multiples of PANEL
};

struct Norm {
  const float* gain;
  const float* bias;
};

struct Block {
  Norm attention_norm;
  Product query;      // D -> A, divided by the square root of the head width
  Product key_value;  // D -> 2 A: keys of all heads, then values
  Product joined;     // A -> D
  Norm ff_norm;
  Product wide, narrow;
};

// One level's query network, and the children that it chooses from.
struct Level {
  Product narrow;               // H -> D
  const float* const* told;     // [level] (K, H): what a code of an earlier level adds to the hidden layer; or null
  Product by_code;              // D -> K, where output vectors go by code alone: for nodes with most codes below them
  const float* vectors;         // (rows, D) output vectors; null where they are bf16
  const uint16_t* half_vectors; // the same as bf16
  const int32_t* first_vector;  // (V_level,) row of the first child's vector, -1 where there is one child; null: by code
  const int32_t* child_starts;  // (V_level + 1,)
  Codes child_codes;            // (V_{level + 1},)
};

struct Model {
  int64_t width, padded, heads, head, hidden, layers, levels, max_history, num_items;
  float epsilon;
  float unused;
  const float* mask;               // (D,) 1 in the first `width` columns, then 0
  const float* positions;          // (max_history, D)
  const float* item_vectors;       // (I, D) inputs of the trunk, code embeddings included; null: from `read`
  Codes item_codes;                // (I, L)
  const float* const* read;        // [L] (K, D)
  const Block* blocks;             // [layers]
  Norm norm;
  Product first;                   // D -> L * H: what the position alone gives to the hidden layer of each level
  Product root;                    // D -> children of the root; a bias of NOTHING where the padding is
  const Level* level;              // [L]
};

struct Trie {
  int64_t levels, num_items, num_known;  // num_known: items of the catalogue, in the tree or not
  const int32_t* const* child_starts;    // [L]
  const Codes* child_codes;              // [L]
  const int32_t* const* item_starts;     // [L + 1]; the last one is null where leaf v has position v alone
  const int32_t* items;                  // (P,)
  const int32_t* positions;              // (num_known,) -1 where an item is not in the tree
  const int32_t* const* model_nodes;     // [L + 1] (V_d,) the model's node of each node; null entries: the same number
};

// A history that is kept.
struct State {
  float* values;    // (positions, layers, 2 A) keys and values
  int64_t past;     // positions that it holds
  float* hidden;    // (D,) what comes after the last one; written after reading
};

struct Request {
  int64_t rows;
  const int32_t* items;            // (N, item_stride) what was read since the state was kept; null: nothing
  int64_t item_stride;
  const int64_t* counts;           // (N,)
  const State* states;             // [N] with room for what is read; null: all rows start anew and nothing is kept
  int64_t width, k;                // k = 0: read only
  int64_t first_width;             // hypotheses kept at the first level, where that is more than `width`
  const int32_t* seen;             // (N, seen_stride) items, -1 where none; may be null
  int64_t seen_stride;
  const uint64_t* const* allowed;       // [N] bit p % 64 of word p / 64: position p may be listed; null: all may
  const int32_t* const* allowed_before; // [N] members before each word, and one more entry: all members
  int64_t* out_items;              // (N, k)
  float* out_scores;               // (N, k)
  int64_t* out_tied;               // (N,)
  int64_t* out_eligible;           // (N,) items that the row may get; or null
  int64_t* work;                   // (L, 2) or null: queries asked and children compared are added to it
  int64_t fault_row, fault_value;  // set where the answer is not FINE
};

enum Answer { FINE, BAD_ITEM, TOO_LONG, NOT_A_NUMBER, BAD_SEEN, BAD_LENGTH, NO_MEMORY };

enum Slot {
  STATE_ROWS, INPUT, NORMED, QUERIES, KEYS_VALUES, MIXED, WIDE, SCORES, POINTERS, TAIL, TAIL_NORMED, HIDDEN,
  FIRST, INNER, ASKING, DENSE, DENSE_ASKING, DENSE_PLACES, LOGITS, NODES, TOTALS, WRITTEN, OLD_WRITTEN, OLD_NODES, COUNTS, KEPT, SEEN, CLOSED, SLOTS
};

struct Workspace {
  void* at[SLOTS];
  size_t bytes[SLOTS];
};
}

// Makes a slot at least `bytes` long; what it held is lost.  Throws std::bad_alloc.
void* grow(Workspace& work, int slot, size_t bytes);

// One of each per path, from the same source.
#define SEMEME_PATH(name)                                                                   \
  namespace name {                                                                          \
  int run(const Model& model, const Trie* trie, Workspace& work, Request& request);         \
  float multiply_add(int64_t rounds, int64_t* flops);                                       \
  void gelu_each(const float* from, float* to, int64_t count);                              \
  }
SEMEME_PATH(path_portable)
#if defined(__x86_64__)
SEMEME_PATH(path_avx2)
SEMEME_PATH(path_avx512)
#endif

#endif
