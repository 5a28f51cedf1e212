// safetensors: the header, and every tensor's bytes. Mutations keep the header's length right, and mostly the data's.
#include <cstring>
#include <random>

#include "engine/safetensors.h"
#include "tests/fuzz/fuzz.h"

using namespace kvt;

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
  uint64_t n = 0;
  if (size >= 8) std::memcpy(&n, data, 8);
  if (seed % 8 == 0 || size < 8 || n > size - 8 || max_size < 64) return LLVMFuzzerMutate(data, size, max_size);
  std::minstd_rand random(seed);
  std::string header(reinterpret_cast<char*>(data) + 8, n), body(reinterpret_cast<char*>(data) + 8 + n, size - 8 - n);
  const size_t digit = header.find_first_of("0123456789", random() % (header.size() + 1));
  if (random() % 2 && digit != std::string::npos) {
    static constexpr const char* numbers[] = {"0", "1", "2", "4", "8", "-1", "1.0", "9223372036854775807", "9223372036854775808", "4611686018427387904", "1e3", "4294967296"};
    header.replace(digit, std::min(header.find_first_not_of("0123456789", digit), header.size()) - digit, numbers[random() % std::size(numbers)]);
  } else {
    header.resize(n + 32);
    header.resize(LLVMFuzzerMutate(reinterpret_cast<uint8_t*>(header.data()), n, n + 32));
  }
  if (random() % 4 == 0) body.resize(random() % 64, '\1');
  if (8 + header.size() + body.size() > max_size) return 0;
  n = header.size();
  std::memcpy(data, &n, 8);
  std::memcpy(data + 8, header.data(), n);
  std::memcpy(data + 8 + n, body.data(), body.size());
  return 8 + n + body.size();
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::works_or_refuses([&] {
    const Safetensors file = Safetensors::parse(fuzz::storage(data, size), "f.safetensors");
    for (const Safetensors::Entry& e : file.entries()) {
      fuzz::expect(file.find(e.name) == &e, "a tensor is not found by its name");
      fuzz::expect(e.offset + e.bytes.size() <= size, "a tensor leaves the file");
      fuzz::works_or_refuses([&] {
        const Tensor x = file.tensor(e.name);
        volatile unsigned sum = 0;
        for (int64_t i = 0; i < x.bytes(); ++i) sum = sum + unsigned(x.raw()[i]);
      });
    }
  });
  return 0;
}
