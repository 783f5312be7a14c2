"""The programs of ``memcoord bench programs`` that are not on every machine already, as text.

Owns: programs in Python, C++ and Java, and what makes the input of sort and gcc. Each says what it
computed, so that a wrong byte is seen; none knows of memcoord. Pure.
"""

from __future__ import annotations

import random

#: PageRank on a random power-law graph, pull form: nodes, edges, iterations.
PAGERANK = """
import sys
import numpy as np
nodes, edges, iterations = map(int, sys.argv[1:])
rng = np.random.default_rng(1)
source = (rng.random(edges) ** 3 * nodes).astype(np.int32)
target = np.sort(rng.integers(0, nodes, edges, dtype=np.int32))
start = np.searchsorted(target, np.arange(nodes + 1)).astype(np.int64)
degree = np.bincount(source, minlength=nodes).astype(np.float64)
degree[degree == 0] = 1
rank = np.full(nodes, 1 / nodes)
for _ in range(iterations):
    sums = np.concatenate(([0.0], np.cumsum((rank / degree)[source])))
    rank = 0.15 / nodes + 0.85 * (sums[start[1:]] - sums[start[:-1]])
print(f"{rank.sum():.9f} {int(rank.argmax())}")
"""

#: A dict of strings and lists, looked up with a skew: entries, look-ups.
OBJECTS = """
import random, sys
entries, queries = map(int, sys.argv[1:])
table = {f"key{i}": [i, str(i) * 4] for i in range(entries)}
rng, total = random.Random(3), 0
for _ in range(queries):
    total += table[f"key{int(entries * rng.random() ** 4)}"][0]
print(total)
"""

#: A database in memory, an index, a join: rows.
SQLITE = """
import sqlite3, sys
base = sqlite3.connect(":memory:")
base.execute("pragma temp_store=memory")
base.execute("create table t(a integer primary key, b text, c integer)")
base.execute(f'''with recursive n(i) as
    (select 1 union all select i + 1 from n where i < {sys.argv[1]})
    insert into t select i, hex(i * 2654435761 % 4294967296) || hex(i * i), i * 7919 % 1000003
    from n''')
base.execute("create index tc on t(c)")
for query in ("select count(*), sum(c) from t where c between 1000 and 500000",
              "select sum(length(x.b)) from t x join t y on x.c = y.a where y.a % 10 = 0",
              "select count(distinct substr(b, 1, 6)) from t"):
    print(base.execute(query).fetchall())
"""

#: A hash map of strings, looked up with a skew, and a vector that is sorted: entries, look-ups.
HASHES = """
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <unordered_map>
#include <vector>
int main(int, char **words)
{
    size_t entries = strtoul(words[1], 0, 0), queries = strtoul(words[2], 0, 0);
    std::unordered_map<std::string, unsigned long> table;
    for (size_t i = 0; i < entries; i++) table["key-of-some-length-" + std::to_string(i)] = i;
    std::mt19937_64 rng(5);
    std::uniform_real_distribution<double> share;
    unsigned long sum = 0;
    for (size_t i = 0; i < queries; i++) {
        size_t key = entries * std::pow(share(rng), 4);
        sum += table["key-of-some-length-" + std::to_string(key)];
    }
    std::vector<unsigned long> all(entries * 6);
    for (auto &one : all) one = rng();
    std::sort(all.begin(), all.end());
    for (auto one : all) sum ^= one;
    printf("%lu\\n", sum);
}
"""

#: A tree and a hash map of objects, looked up with a skew: entries.
HEAP = """
import java.util.*;
public class Heap {
    public static void main(String[] words) {
        int entries = Integer.parseInt(words[0]);
        Map<Integer, int[]> table = new HashMap<>();
        TreeMap<Integer, String> tree = new TreeMap<>();
        for (int i = 0; i < entries; i++) {
            table.put(i, new int[] {i, i * 7, i ^ 13, 0, 0, 0});
            if (i % 4 == 0) tree.put((int) ((long) i * 7919 % 1000003), "value " + i);
        }
        Random rng = new Random(3);
        long sum = 0;
        for (int i = 0; i < entries * 2; i++) {
            int key = (int) (entries * Math.pow(rng.nextDouble(), 4));
            sum += table.get(key)[1] + (tree.containsKey(key) ? 1 : 0);
        }
        System.out.println(sum);
    }
}
"""


def text_lines(count: int) -> str:
    """Lines in no order, for sort."""
    rng = random.Random(1)
    return "".join(f"{rng.getrandbits(200):050x} {i}\n" for i in range(count))


def c_functions(count: int) -> str:
    """C that a compiler has something to do with."""
    rng, text = random.Random(1), []
    for i in range(count):
        body = "".join(
            f"  s += (a * {rng.randint(3, 99)}) ^ (b + {k}); if (s > {rng.randint(100, 9999)})"
            f" s -= t[(s ^ {k}) & 63] * b; t[(a + {k}) & 63] = s;\n"
            for k in range(12)
        )
        text.append(
            f"int f{i}(int a, int b, int *t)\n{{\n int s = {i};\n"
            f" for (int j = 0; j < a; j++) {{\n{body} }}\n return s;\n}}\n"
        )
    return "".join(text)
