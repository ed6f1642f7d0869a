// What malloc does with memory that was freed.
#pragma once

namespace leash {

// From now on freed memory stays with this process, up to a few hundred megabytes. Returns false if
// malloc has refused any part of that, or is not glibc's.
//
// A message of a megabyte is allocated and freed thousands of times a second. By default glibc
// gives each back to the system and pays for the next one in page faults: a third of the processor
// time of an exchange of 64 MB (measured: 104 against 70 ms). Other allocators are left as they
// are.
//
// REQUIRES: called early, while the process has one thread.
bool keep_freed_memory() noexcept;

}  // namespace leash
