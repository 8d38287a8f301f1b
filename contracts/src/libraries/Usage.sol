// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @notice What a gateway signs about one answer (fields as in the EIP-712 type below).
/// @param gateway Account of the gateway.
/// @param request Identifier of the request; a gateway uses each once, whatever its deployments.
/// @param account Account that is charged.
/// @param model Hash of the adapter that answered.
/// @param prompt Hash of what was asked.
/// @param output Hash of what was answered.
/// @param promptTokens Tokens of the prompt.
/// @param outputTokens Tokens of the answer.
/// @param priceBook Hash of the price book.
/// @param cost Wei.
struct Receipt {
    address gateway;
    bytes32 request;
    address account;
    bytes32 model;
    bytes32 prompt;
    bytes32 output;
    uint64 promptTokens;
    uint64 outputTokens;
    bytes32 priceBook;
    uint128 cost;
}

/// @notice A leaf of a batch's charges, and the cap that its account has signed.
/// @param account Account that is charged, not zero.
/// @param cumulative All that it was ever charged under the price book, in wei.
/// @param cap The most that it may be charged under the price book, in wei.
/// @param expiry Unix time: batches that are settled later are not under this cap.
struct Charge {
    address account;
    uint128 cumulative;
    uint128 cap;
    uint64 expiry;
}

/// @title Hashes of usage: series, leaves, and the EIP-712 structs of caps and receipts
library Usage {
    /// @notice EIP-712 type hash of a cap; chain and contract are in the domain.
    bytes32 internal constant CAP_TYPEHASH =
        keccak256("Cap(address account,address gateway,bytes32 priceBook,uint128 cumulative,uint64 expiry)");

    /// @notice EIP-712 type hash of a receipt.
    bytes32 internal constant RECEIPT_TYPEHASH = keccak256(
        "Receipt(address gateway,bytes32 request,address account,bytes32 model,bytes32 prompt,bytes32 output,uint64 promptTokens,uint64 outputTokens,bytes32 priceBook,uint128 cost)"
    );

    bytes32 private constant TAG = keccak256("flock_ray/usage/1");

    /// @notice Name of the batches of one gateway under one price book: what is charged under another counts apart.
    function series(address gateway, bytes32 priceBook) internal pure returns (bytes32) {
        return keccak256(abi.encode(TAG, gateway, priceBook));
    }

    /// @notice Leaf of both trees of a batch, in the layout of the reward leaves. Hashed twice: no inner node is a leaf.
    function leaf(bytes32 series_, address account, uint256 cumulative) internal view returns (bytes32) {
        return
            keccak256(bytes.concat(keccak256(abi.encode(block.chainid, address(this), series_, account, cumulative))));
    }

    /// @notice `hashStruct` of a cap.
    function hash(address gateway, bytes32 priceBook, Charge calldata charge) internal pure returns (bytes32) {
        return keccak256(abi.encode(CAP_TYPEHASH, charge.account, gateway, priceBook, charge.cap, charge.expiry));
    }

    /// @notice `hashStruct` of a receipt.
    function hash(Receipt calldata receipt) internal pure returns (bytes32) {
        return keccak256(abi.encode(RECEIPT_TYPEHASH, receipt));
    }
}
