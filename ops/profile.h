// Where the time of inference goes: operations report to the profile that is alive on their thread.
//
//   Profile profile;                       …        for (const Profile::Row& row : profile.rows()) …
#pragma once
#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

namespace kvt {

class Profile {
 public:
  // Calls of one operation at one size. Bytes: what must be read at least, weights and cached keys and values.
  struct Row { std::string operation; int64_t calls = 0, bytes = 0; double seconds = 0; };

  Profile();
  ~Profile();
  Profile(const Profile&) = delete;
  Profile& operator=(const Profile&) = delete;

  const std::vector<Row>& rows() const { return rows_; }       // in order of their first call
  void clear() { rows_.clear(); }
  void add(const std::string& operation, int64_t bytes, double seconds);
  static Profile* current();

 private:
  std::vector<Row> rows_;
  Profile* outer_;
};

// Its life is one call. name() is asked for alone while a profile is alive.
template <class Name>
class Timed {
 public:
  Timed(Name name, int64_t bytes = 0) : profile_(Profile::current()), name_(name), bytes_(bytes) {
    if (profile_) start_ = Clock::now();
  }
  ~Timed() {
    if (profile_) profile_->add(name_(), bytes_, std::chrono::duration<double>(Clock::now() - start_).count());
  }
  Timed(const Timed&) = delete;
  Timed& operator=(const Timed&) = delete;

 private:
  using Clock = std::chrono::steady_clock;
  Profile* profile_;
  Name name_;
  int64_t bytes_;
  Clock::time_point start_;
};

// GB/s at which all threads together read `bytes` of memory, the best of some passes: what decoding cannot exceed.
double read_bandwidth(int64_t bytes);

}  // namespace kvt
