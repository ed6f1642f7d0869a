// Memory of messages, which lives as long as a push or an answer needs it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

namespace leash {

// The owner of a push's memory, as Shard knows it. Several pushes and answers may use one, and each
// counts as a reference. Whoever drops the last one deletes the buffer, or leaves that to somebody
// who may: see BufferBin.
class Buffer {
 public:
  virtual ~Buffer() = default;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  std::byte* data() const { return data_; }
  std::size_t nbytes() const { return nbytes_; }

  void add_reference() { ++references_; }
  // Returns whether that was the last one.
  bool drop_reference() { return --references_ == 0; }
  bool has_one_reference() const { return references_ == 1; }

 protected:
  Buffer() = default;
  Buffer(std::byte* data, std::size_t nbytes) : data_(data), nbytes_(nbytes) {}
  void set_memory(std::byte* data, std::size_t nbytes) { data_ = data, nbytes_ = nbytes; }
  // Begins anew with its maker's reference. REQUIRES: the last one was dropped.
  void renew() { references_ = 1; }

 private:
  std::byte* data_ = nullptr;
  std::size_t nbytes_ = 0;
  std::size_t references_ = 1;  // its maker's
};

// Memory of the engine's own, for an answer that does not fit where its gradient lies. It holds
// nothing before that is written.
class OwnBuffer : public Buffer {
 public:
  explicit OwnBuffer(std::size_t nbytes)
      : OwnBuffer(std::make_unique_for_overwrite<std::byte[]>(nbytes), nbytes) {}

 private:
  OwnBuffer(std::unique_ptr<std::byte[]> memory, std::size_t nbytes)
      : Buffer(memory.get(), nbytes), memory_(std::move(memory)) {}

  std::unique_ptr<std::byte[]> memory_;
};

// Buffers that nobody needs any more. To delete one that came from Python needs the GIL, so they
// wait here until their maker calls take().
class BufferBin {
 public:
  BufferBin() = default;
  ~BufferBin() {
    for (Buffer* buffer : idle_) delete buffer;
  }
  BufferBin(const BufferBin&) = delete;
  BufferBin& operator=(const BufferBin&) = delete;

  void drop(Buffer* buffer) {
    if (buffer != nullptr && buffer->drop_reference()) idle_.push_back(buffer);
  }
  // Puts the buffers that wait in place of what `idle` held; the caller deletes them.
  void take(std::vector<Buffer*>& idle) {
    idle.clear();
    idle.swap(idle_);
  }
  bool empty() const { return idle_.empty(); }

 private:
  std::vector<Buffer*> idle_;
};

// Holds a reference to a buffer as long as a call needs it.
struct Hold {
  Hold(BufferBin& holder, Buffer* held) : bin(holder), buffer(held) {}
  ~Hold() { bin.drop(buffer); }
  Hold(const Hold&) = delete;
  Hold& operator=(const Hold&) = delete;

  BufferBin& bin;
  Buffer* buffer;
};

}  // namespace leash
