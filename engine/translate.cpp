#include "engine/translate.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "engine/rows.h"

namespace kvt {

namespace {

struct Hypothesis {
  Ids ids;
  double sum = 0;
};

struct Candidate {
  double sum;
  int64_t row;
  int32_t token;
};

// More probable first; equal ones by row and token, so that the result does not depend on how they were found.
bool better(const Candidate& a, const Candidate& b) {
  return a.sum != b.sum ? a.sum > b.sum : a.row != b.row ? a.row < b.row : a.token < b.token;
}

// The n best continuations of one row of log-probabilities join `best`, which stays sorted and at most n long.
void offer(std::vector<Candidate>& best, size_t n, const float* log_p, int64_t V, int64_t row, double sum) {
  for (int64_t v = 0; v < V; ++v) {
    const Candidate c{sum + double(log_p[v]), row, int32_t(v)};
    if (best.size() == n && !better(c, best.back())) continue;
    if (best.size() == n) best.pop_back();
    best.insert(std::upper_bound(best.begin(), best.end(), c, better), c);
  }
}

// The search of one sentence, whose beams are `beam` rows of the batch.
class Search {
 public:
  Search(const TranslateOptions& options, int32_t end, int64_t most) : options_(options), end_(end), most_(most), alive_(1) {}

  bool done() const { return done_; }
  // The last token of beam i; beams that are not in use repeat `start`.
  int32_t last(int64_t i, int32_t start) const { return i < int64_t(alive_.size()) && !alive_[size_t(i)].ids.empty() ? alive_[size_t(i)].ids.back() : start; }

  // log_p [beam, V] of the next tokens. from[i] = the beam that beam i now continues.
  void advance(const float* log_p, int64_t V, int64_t* from) {
    std::iota(from, from + options_.beam, int64_t(0));
    if (done_) return;
    std::vector<Candidate> best;
    const auto wanted = size_t(2 * options_.beam);
    for (size_t i = 0; i < alive_.size(); ++i) offer(best, wanted, log_p + int64_t(i) * V, V, int64_t(i), alive_[i].sum);

    std::vector<Hypothesis> next;
    for (size_t rank = 0; rank < best.size() && int64_t(next.size()) < options_.beam; ++rank) {
      const Candidate& c = best[rank];
      Hypothesis h = alive_[size_t(c.row)];
      h.sum = c.sum;
      if (c.token != end_) {
        h.ids.push_back(c.token);
        from[next.size()] = c.row;
        next.push_back(std::move(h));
      } else if (int64_t(rank) < options_.beam) {
        finish(h, true);
      }
    }
    alive_ = std::move(next);
    done_ = ended_ >= options_.beam || alive_.empty() || ++length_ >= most_;
    if (done_ && ended_ == 0)
      for (const Hypothesis& h : alive_) finish(h, false);
  }

  Translation best() const { return best_; }

 private:
  void finish(const Hypothesis& h, bool ended) {
    const double length = double(h.ids.size()) + ended, score = h.sum / std::pow((5 + length) / 6, double(options_.length_penalty));
    ended_ += ended;
    if (!found_ || score > best_.score) best_ = {h.ids, h.sum, score, ended};
    found_ = true;
  }

  const TranslateOptions& options_;
  int32_t end_;
  int64_t most_, length_ = 0, ended_ = 0;
  std::vector<Hypothesis> alive_;
  Translation best_;
  bool found_ = false, done_ = false;
};

}  // namespace

std::vector<Translation> translate(const Seq2Seq& model, std::span<const Ids> sources, int32_t start, int32_t end, const TranslateOptions& options,
                                   const std::function<bool()>& cancelled) {
  const int64_t V = model.config().target_vocabulary, beam = options.beam;
  require(beam >= 1 && 2 * beam <= V, "translate: ", beam, " beams for a vocabulary of ", V);
  require(options.batch >= 1 && options.most >= 0, "translate: batch ", options.batch, ", at most ", options.most, " tokens");
  require(std::isfinite(options.length_penalty), "translate: length penalty ", options.length_penalty);
  const Tape::Pause pause;
  std::vector<Translation> results(sources.size());
  std::vector<size_t> order(sources.size());
  std::iota(order.begin(), order.end(), size_t(0));
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return sources[a].size() < sources[b].size(); });
  order.erase(order.begin(), std::find_if(order.begin(), order.end(), [&](size_t i) { return !sources[i].empty(); }));   // nothing to translate

  for (size_t begin = 0; begin < order.size(); begin += size_t(options.batch)) {
    const std::span<const size_t> chosen(order.data() + begin, std::min(size_t(options.batch), order.size() - begin));
    std::vector<const Ids*> rows;
    for (size_t i : chosen) rows.push_back(&sources[i]);
    const Rows in = fill_rows(rows, 0);
    const Memory memory = model.encode(in.ids, in.lengths, in.T);

    std::vector<Search> searches;
    int64_t most = 0;
    for (int32_t length : in.lengths) {
      const int64_t limit = std::min(options.most > 0 ? options.most : 2 * int64_t(length) + 10, model.config().context);
      searches.emplace_back(options, end, limit);
      most = std::max(most, limit);
    }
    DecoderCache cache = model.start(memory, beam, most);
    std::vector<int64_t> from(size_t(cache.rows()));
    Ids last(from.size(), start);
    Arena arena;
    while (!std::all_of(searches.begin(), searches.end(), [](const Search& s) { return s.done(); })) {
      if (cancelled && cancelled()) return results;
      const Arena::Scope scope(arena);
      const Tensor log_p = log_softmax(model.step(last, cache));
      for (size_t s = 0; s < searches.size(); ++s) {
        const size_t row = s * size_t(beam);
        searches[s].advance(log_p.data() + int64_t(row) * V, V, from.data() + row);
        for (int64_t i = 0; i < beam; ++i) {
          from[row + size_t(i)] += int64_t(row);
          last[row + size_t(i)] = searches[s].last(i, start);
        }
      }
      if (beam > 1) cache.reorder(from);
    }
    for (size_t s = 0; s < searches.size(); ++s) results[chosen[s]] = searches[s].best();
  }
  return results;
}

}  // namespace kvt
