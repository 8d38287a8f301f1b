// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title Recovery of signers from EIP-2098 signatures that stand in a row
library Signatures {
    /// @notice Bytes of a signature: r, then s with the parity of y in its top bit.
    uint256 internal constant LENGTH = 64;

    /// @dev Half of the order of secp256k1: a signature with a larger s is the malleable twin of another.
    uint256 private constant HALF_ORDER = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0;

    /// @notice Number of the first signature that is not by the owner in its place; `owners.length` when all are.
    /// @param digest What was signed.
    /// @param signatures One signature an owner, in a row; the caller has checked their length.
    /// @param owners Accounts, none of them zero.
    function firstForeign(bytes32 digest, bytes calldata signatures, address[] memory owners)
        internal
        view
        returns (uint256 index)
    {
        assembly ("memory-safe") {
            let input := mload(0x40)
            mstore(input, digest)
            let at := signatures.offset
            let first := add(owners, 32)
            let owner := first
            for { let end := add(first, shl(5, mload(owners))) } lt(owner, end) { owner := add(owner, 32) } {
                let vs := calldataload(add(at, 32))
                let s := shr(1, shl(1, vs))
                if gt(s, HALF_ORDER) { break }
                mstore(add(input, 32), add(27, shr(255, vs)))
                mstore(add(input, 64), calldataload(at))
                mstore(add(input, 96), s)
                mstore(0, 0) // stays zero, which is nobody, when the precompile returns nothing
                pop(staticcall(gas(), 1, input, 128, 0, 32))
                if sub(mload(0), mload(owner)) { break }
                at := add(at, 64)
            }
            index := shr(5, sub(owner, first))
        }
    }

    /// @notice Whether a signature of 64 bytes is by `account`, which must not be zero.
    function isBy(address account, bytes32 digest, bytes calldata signature) internal view returns (bool) {
        address[] memory owners = new address[](1);
        owners[0] = account;
        return firstForeign(digest, signature, owners) == 1;
    }
}
