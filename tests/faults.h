// Faults on demand: the n-th call of an allocator or of the system fails, as it does when memory or the disk is full. Linked into a test alone
// (tests/faults.cpp stands in front of the C library's functions; nothing of this is in the library).
//
//   Faults::arm(Call::write, 3);   the third write from here on fails, once;  Faults::arm(Call::write, 3, true): it and every later one
//   Faults::made(Call::write)      how many there were since then
//
// live() is what has been taken and not given back: a leak is what grows each time.
#pragma once
#include <cstdint>

namespace kvt {

enum class Call { allocate, storage, map, open, status, read, write, sync, close, link, rename, thread };
constexpr Call all_calls[] = {Call::allocate, Call::storage, Call::map, Call::open, Call::status, Call::read, Call::write, Call::sync, Call::close, Call::link, Call::rename, Call::thread};
const char* name(Call call);

struct Faults {
  static void arm(Call call, int64_t nth, bool for_good = false);      // counts from 1; 0 = count only
  static void disarm();
  static int64_t made(Call call);
  static bool struck();                                                // the armed fault has happened
  // Every read and write moves one byte less than it could (at least one), or is interrupted first, until switched off.
  enum class Trouble { none, partial, interrupted };
  static void trouble(Trouble kind);

  struct Live { int64_t objects, files, maps; bool operator==(const Live&) const = default; };
  static Live live();
};

}  // namespace kvt
