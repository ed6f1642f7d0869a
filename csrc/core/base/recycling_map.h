// A map for entries that come and go all the time.
#pragma once

#include <map>
#include <utility>
#include <vector>

namespace leash {

// A std::map that keeps the nodes of its erased entries, and what their values have allocated, for
// entries that come later: one whose size has reached its largest allocates nothing any more.
// Value is a vector or a number; a new entry's is empty, or 0.
template <typename Key, typename Value>
class RecyclingMap {
 public:
  using Map = std::map<Key, Value>;

  bool empty() const { return entries_.empty(); }
  // The entry with the smallest key. REQUIRES: !empty().
  const typename Map::value_type& first() const { return *entries_.begin(); }

  Value& operator[](const Key& key) {
    const auto found = entries_.find(key);
    if (found != entries_.end()) return found->second;
    if (spare_.empty()) return entries_[key];
    auto node = std::move(spare_.back());
    spare_.pop_back();
    node.key() = key;
    return entries_.insert(std::move(node)).position->second;
  }

  void erase(const Key& key) {
    auto node = entries_.extract(key);
    if (node.empty()) return;
    if constexpr (requires { node.mapped().clear(); }) {
      node.mapped().clear();
    } else {
      node.mapped() = Value{};
    }
    spare_.push_back(std::move(node));
  }

  void clear() {
    while (!empty()) erase(Key{first().first});
  }

 private:
  Map entries_;
  std::vector<typename Map::node_type> spare_;
};

}  // namespace leash
