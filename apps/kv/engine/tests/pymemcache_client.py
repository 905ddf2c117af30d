"""Uses a server on 127.0.0.1 through pymemcache (PyPI): python3 pymemcache_client.py PORT."""

import sys
import threading

from pymemcache.client.base import Client

ADDRESS = ("127.0.0.1", int(sys.argv[1]))


def one_client():
    client = Client(ADDRESS, default_noreply=False)
    assert client.set("a", b"1") and client.get("a") == b"1"
    assert client.set("big", b"x" * 1000000) and client.get("big") == b"x" * 1000000
    assert client.add("a", b"2") is False
    assert client.replace("a", b"5") and client.incr("a", 3) == 8 and client.decr("a", 1) == 7
    _, cas = client.gets("a")
    assert client.cas("a", b"9", cas) is True and client.cas("a", b"9", cas) is False
    assert client.append("a", b"z") and client.prepend("a", b"y") and client.get("a") == b"y9z"
    assert client.touch("a", 100) and client.delete("a") and client.get("a") is None
    assert client.set_many({f"k{i}": b"v%d" % i for i in range(500)}) == []
    assert len(client.get_many([f"k{i}" for i in range(500)])) == 500
    stats = client.stats()
    assert stats[b"curr_items"] == 501 and stats[b"version"] == b"1.6.18"
    assert client.stats("settings") and client.stats("items") and client.stats("slabs")
    assert client.flush_all() and client.get("k1") is None
    client.quit()


def some_work(number):
    client = Client(ADDRESS)
    for i in range(300):
        client.set(f"t{number}.{i}", b"%d" % i)
        if client.get(f"t{number}.{i}") != b"%d" % i:
            failures.append((number, i))


failures = []
one_client()
threads = [threading.Thread(target=some_work, args=(number,)) for number in range(16)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not failures, failures
