"""The settlement chain: keys, signed transactions, embedded and remote chains, and the client that owns one.

`keys`, `eip712`, `merkle`, `epoch_report`, `values`, `words`, `abi`, `calls` and `transactions` are light and use no
network: every process that hosts a member imports some of them. What imports `node` imports web3: `client`, which
belongs to the chain actor, and what the commands use.
"""

from __future__ import annotations

import os

# eth-hash would choose pycryptodome, four times slower, although the C implementation is installed.
os.environ.setdefault("ETH_HASH_BACKEND", "pysha3")
