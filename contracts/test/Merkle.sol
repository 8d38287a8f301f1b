// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @notice A second, independent writing of OpenZeppelin's StandardMerkleTree: sorted leaves, sorted pairs, heap layout.
library Merkle {
    /// @notice Nodes of the tree, root first; the leaves stand at the end in descending order.
    function build(bytes32[] memory leaves) internal pure returns (bytes32[] memory nodes) {
        uint256 count = leaves.length;
        if (count == 0) return new bytes32[](1);
        bytes32[] memory sorted = _sort(leaves);
        nodes = new bytes32[](2 * count - 1);
        for (uint256 i; i < count; ++i) {
            nodes[nodes.length - 1 - i] = sorted[i];
        }
        for (uint256 i = count - 1; i > 0; --i) {
            nodes[i - 1] = _pair(nodes[2 * i - 1], nodes[2 * i]);
        }
    }

    /// @notice Siblings from a leaf up to the root.
    function prove(bytes32[] memory nodes, bytes32 leaf) internal pure returns (bytes32[] memory proof) {
        uint256 node = nodes.length - 1;
        while (nodes[node] != leaf) --node;
        uint256 depth;
        for (uint256 i = node; i > 0; i = (i - 1) / 2) {
            ++depth;
        }
        proof = new bytes32[](depth);
        for (uint256 i; i < depth; ++i) {
            proof[i] = nodes[node % 2 == 0 ? node - 1 : node + 1];
            node = (node - 1) / 2;
        }
    }

    /// @notice Multiproof of several leaves, as OpenZeppelin's library makes it: leaves in the order of the tree.
    /// @param nodes Tree.
    /// @param wanted Positions in `nodes` of the leaves to prove, descending.
    function proveMany(bytes32[] memory nodes, uint256[] memory wanted)
        internal
        pure
        returns (bytes32[] memory proof, bool[] memory flags)
    {
        uint256[] memory queue = new uint256[](2 * nodes.length);
        uint256 tail;
        for (; tail < wanted.length; ++tail) {
            queue[tail] = wanted[tail];
        }
        proof = new bytes32[](nodes.length);
        flags = new bool[](nodes.length);
        uint256 proofs;
        uint256 steps;
        for (uint256 head; queue[head] > 0; ++steps) {
            uint256 node = queue[head++];
            uint256 sibling = node % 2 == 0 ? node - 1 : node + 1;
            if (head < tail && queue[head] == sibling) {
                ++head;
                flags[steps] = true;
            } else {
                proof[proofs++] = nodes[sibling];
            }
            queue[tail++] = (node - 1) / 2;
        }
        assembly ("memory-safe") {
            mstore(proof, proofs)
            mstore(flags, steps)
        }
    }

    function _pair(bytes32 left, bytes32 right) private pure returns (bytes32) {
        return left < right ? keccak256(bytes.concat(left, right)) : keccak256(bytes.concat(right, left));
    }

    function _sort(bytes32[] memory values) private pure returns (bytes32[] memory sorted) {
        sorted = new bytes32[](values.length);
        for (uint256 i; i < values.length; ++i) {
            uint256 j = i;
            for (; j > 0 && sorted[j - 1] > values[i]; --j) {
                sorted[j] = sorted[j - 1];
            }
            sorted[j] = values[i];
        }
    }
}
