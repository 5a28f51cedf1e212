#include "tests/main.h"

#include <atomic>
#include <cmath>
#include <cstring>
#include <set>
#include <thread>

#include "tensor/parallel.h"
#include "tensor/random.h"
#include "tensor/tape.h"

using namespace kvt;

TEST_CASE("a shape knows its extents and refuses impossible ones") {
  const Shape s{2, 3, 4};
  CHECK(s.numel() == 24);
  CHECK(s[-1] == 4);
  CHECK(s.leading() == Shape{2, 3});
  CHECK(s.with_last(7) == Shape{2, 3, 7});
  CHECK_FALSE(s == Shape{2, 3});
  CHECK_THROWS_WITH_AS((Shape{int64_t(1) << 40, int64_t(1) << 40}.numel()), "shape: [1099511627776, 1099511627776] has too many elements", Error);
  CHECK_THROWS_WITH_AS(s[3], "shape: axis 3 of a tensor with 3 axes", Error);
}

TEST_CASE("element types: block sizes, names in any case, and partial blocks") {
  CHECK(byte_size(DType::Q4_1, 64) == 40);
  CHECK(byte_size(DType::Q6_K, 512) == 420);
  CHECK(find_dtype("q4_k")->type == DType::Q4_K);
  CHECK(find_dtype(4) == nullptr);
  CHECK_THROWS_AS(byte_size(DType::Q4_0, 33), Error);
  CHECK_THROWS_AS(byte_size(DType::F64, int64_t(1) << 62), Error);
}

TEST_CASE("views share numbers and gradient; clones share neither") {
  const Tensor x = Tensor::from({2, 3}, std::vector<float>{1, 2, 3, 4, 5, 6}), v = x.view({3, 2}), c = x.clone();
  v.data()[5] = 60;
  v.grad()[0] = 7;
  CHECK(x.data()[5] == 60);
  CHECK(x.grad()[0] == 7);
  CHECK(c.data()[5] == 6);
  CHECK_FALSE(c.has_grad());
  CHECK_THROWS_WITH_AS(x.view({4}), "view: [2, 3] has not the elements of [4]", Error);
}

TEST_CASE("an arena gives its memory again, and never under a living tensor") {
  Arena arena;
  Tensor kept;
  const float* first = nullptr;
  {
    const Arena::Scope scope(arena);
    first = Tensor({100}).data();
    CHECK(reinterpret_cast<uintptr_t>(first) % 64 == 0);
  }
  {
    const Arena::Scope scope(arena);
    kept = Tensor::filled({100}, 3.f);
    CHECK(kept.data() == first);          // the same memory again
  }
  {
    const Arena::Scope scope(arena);
    const Tensor other = Tensor::filled({100}, 4.f);
    CHECK(other.data() != kept.data());   // `kept` escaped
    const Tensor large({1 << 20});
    CHECK(arena.reserved() >= size_t(large.bytes()));
  }
  CHECK(kept.data()[99] == 3.f);
}

TEST_CASE("storage refuses what lies outside") {
  const Storage s = Storage::allocate_owned(10);
  CHECK(s.part(4, 6).data() == s.data() + 4);
  CHECK_THROWS_AS(s.part(4, 7), Error);
  CHECK_THROWS_AS(s.part(SIZE_MAX, 2), Error);
  CHECK_THROWS_WITH_AS(Storage::map_file("/nonexistent/x"), "cannot open '/nonexistent/x': No such file or directory", Error);
}

TEST_CASE("blocks that wait for reuse are found again, stay within bounds, and go in the end") {
  const int64_t before = Storage::use().now;
  constexpr size_t large = 1 << 20;
  Storage outlives;
  {
    const Storage::Reuse blocks;
    const std::byte* first = nullptr;
    {
      Storage a = Storage::allocate_owned(large), b = Storage::allocate_owned(large / 2);
      CHECK(Storage::use().now == before + int64_t(large + large / 2));
      CHECK(reinterpret_cast<uintptr_t>(a.data()) % 64 == 0);
      std::fill_n(a.data(), large, std::byte(7));
      first = a.data();
    }
    CHECK(Storage::use().now == before);
    CHECK(Storage::allocate_owned(large).data() == first);
    CHECK(Storage::allocate_owned(large - large / 16).data() == first);            // a little less fits, too
    CHECK(Storage::allocate_owned(large - large / 16).data() == first);
    outlives = Storage::allocate_owned(large);
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t)
      threads.emplace_back([t] {
        for (size_t i = 0; i < 200; ++i) {
          const Storage s = Storage::allocate_owned((1 + (i + size_t(t)) % 3) << 17);
          std::fill_n(s.data(), s.size(), std::byte(t));
          CHECK(std::count(s.data(), s.data() + s.size(), std::byte(t)) == int64_t(s.size()));
        }
      });
    for (std::thread& t : threads) t.join();
  }
  std::fill_n(outlives.data(), large, std::byte(1));
  outlives = {};
  CHECK(Storage::use().now == before);
}

// y = x² as an operation of its own, counting its backward steps
static Tensor square(const Tensor& x, int& steps) {
  Tensor y(x.shape());
  for (int64_t i = 0; i < x.size(); ++i) y.data()[i] = x.data()[i] * x.data()[i];
  return on_backward(y, {x}, [=, &steps] {
    ++steps;
    for (int64_t i = 0; i < x.size(); ++i) x.grad()[i] += 2 * x.data()[i] * y.grad()[i];
  });
}

TEST_CASE("the tape runs backward through what wants a gradient, and only that") {
  int steps = 0;
  const Tensor x = Tensor::filled({1}, 3.f), w = Tensor::filled({1}, 2.f);
  {
    Tape tape;
    square(square(x, steps), steps);      // nobody wants x's gradient
    CHECK(steps == 0);
    w.want_grad();
    tape.backward(square(square(w, steps), steps));
  }
  CHECK(steps == 2);
  CHECK(w.grad()[0] == 32.f);             // d w⁴ / dw = 4 w³
  CHECK_FALSE(square(w, steps).wants_grad());   // no tape, no recording
}

TEST_CASE("recomputation gives the same gradients and records nothing where nothing is wanted") {
  int steps = 0;
  const Tensor x = Tensor::filled({1}, 3.f).want_grad(), frozen = Tensor::filled({1}, 3.f);
  const auto fourth = [&](const Tensor& t) { return square(square(t, steps), steps); };
  Tape tape;
  CHECK_FALSE(recompute(fourth, frozen).wants_grad());
  tape.backward(recompute(fourth, x));
  CHECK(x.grad()[0] == 108.f);
  CHECK(steps == 2);
}

TEST_CASE("parallel_for covers every index once, nests, and passes exceptions on") {
  ThreadPool pool({.threads = 4});
  const ThreadPool::Use use(pool);
  for (int64_t n : {0, 1, 7, 64, 1000, 4097}) {
    std::vector<std::atomic<int>> hits(static_cast<size_t>(n));
    parallel_for(n, 3, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) parallel_for(1, 1, [&](int64_t, int64_t) { ++hits[size_t(i)]; });
    });
    bool once = true;
    for (const auto& h : hits) once &= h == 1;
    CHECK(once);
  }
  for (int round = 0; round < 20; ++round)
    CHECK_THROWS_WITH_AS(parallel_for(100, 1, [](int64_t begin, int64_t) { require(begin < 50, "at ", 50); }), "at 50", Error);
  std::atomic<int64_t> total = 0;
  for (int round = 0; round < 2000; ++round) parallel_for(8, 1, [&](int64_t b, int64_t e) { total += e - b; });
  CHECK(total == 16000);
}

TEST_CASE("random numbers: reproducible, restorable, of the right moments") {
  Rng a(42), b(42), c(43);
  CHECK(a.next() == b.next());
  CHECK(a.next() != c.next());
  const Rng::State state = a.state();
  const float u = a.uniform();
  a.set_state(state);
  CHECK(a.uniform() == u);

  double mean = 0, square = 0;
  const int n = 100000;
  for (int i = 0; i < n; ++i) {
    const double x = a.normal();
    mean += x / n;
    square += x * x / n;
  }
  CHECK(std::fabs(mean) < 0.02);
  CHECK(std::fabs(square - 1) < 0.03);
  std::set<uint64_t> seen;
  for (int i = 0; i < 200; ++i) seen.insert(a.below(5));
  CHECK(seen == std::set<uint64_t>{0, 1, 2, 3, 4});
}
