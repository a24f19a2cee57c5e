// The whole kernel for one kind of processor.  The includer sets, before it opens the target region:
//   PATH        name of the namespace
//   VL          floats per vector
//   SUMS        vectors of sums that a tile of a product may hold in registers
//   MOST_ROWS   rows of such a tile
// and has included the system headers, which must not be read inside the region.

namespace PATH {

static constexpr int64_t ROWS_AT_ONCE = 40;

#include "vectors.h"
#include "products.h"
#include "trunk.h"
#include "kept.h"
#include "walk.h"

int run(const Model& model, const Trie* trie, Workspace& work, Request& request) {
  const int64_t padded = model.padded;
  float* const hidden = room<float>(work, HIDDEN, request.rows * padded);
  memset(hidden, 0, request.rows * padded * sizeof(float));
  if (request.states)
    for (int64_t row = 0; row < request.rows; row++)
      if (request.states[row].past) memcpy(hidden + row * padded, request.states[row].hidden, padded * sizeof(float));
  if (request.items) {
    const int answer = check_items(model, request);
    if (answer != FINE) return answer;
    read(model, work, request, hidden);
  }
  return request.k ? walk(model, *trie, work, request, hidden) : FINE;
}

// Multiply-adds on registers alone, as many as this path can have under way: the ceiling of any product.
float multiply_add(int64_t rounds, int64_t* flops) {
  constexpr int WAYS = 10;
  Vector sums[WAYS];
  // Not from 1, which these constants would keep: the compiler knows, and would leave that one out.
  for (int i = 0; i < WAYS; i++) sums[i] = all((float)(i + 2));
  Vector shrink = all(0.999f), more = all(0.001f);
  for (int64_t round = 0; round < rounds; round++)
    for (int i = 0; i < WAYS; i++) sums[i] = sums[i] * shrink + more;
  *flops = rounds * WAYS * VL * 2;
  float total = 0.0f;
  for (int i = 0; i < WAYS; i++) total += sum_of(sums[i]);
  return total;
}

void gelu_each(const float* from, float* to, int64_t count) {
  for (int64_t i = 0; i + VL <= count; i += VL) store(to + i, gelu(load(from + i)));
}

}  // namespace PATH
