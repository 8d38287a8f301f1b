// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";
import {Balance, GatewayStakes, UsageSettings} from "./GatewayStakes.sol";
import {Charge, Usage} from "./libraries/Usage.sol";
import {Signatures} from "./libraries/Signatures.sol";

/// @title What users of models pay, and who is paid
/// @notice An account deposits for a gateway and signs caps: no more than the deposit and no more than the cap is ever
/// taken, whatever the gateway settles. Batches of one gateway under one price book are a series: their charges and
/// payouts are cumulative, under two Merkle roots whose leaves have one sum. What is collected from deposits fills the
/// batches in their order; a batch pays in full once it is full, and before that floored, pro rata of what it has.
/// For each series: paid <= collected <= charged.
/// @dev Not upgradeable; every function that pays has written its books before. The token must be a plain ERC-20.
contract UsageSettlement is GatewayStakes {
    using SafeERC20 for IERC20;

    /// @notice A settled batch.
    /// @param charges Merkle root of all that accounts were charged.
    /// @param payouts Merkle root of all that accounts are to get.
    /// @param total Sum of the leaves of either, in wei.
    /// @param settledAt Unix time.
    struct Batch {
        bytes32 charges;
        bytes32 payouts;
        uint128 total;
        uint64 settledAt;
    }

    /// @notice Money and batches of a series.
    /// @param collected Wei taken from deposits.
    /// @param paid Wei paid out.
    /// @param last Number of its last batch.
    /// @param newest Number of the newest batch that was collected from.
    struct Series {
        uint128 collected;
        uint128 paid;
        uint64 last;
        uint64 newest;
    }

    /// @notice A leaf of a payouts tree.
    /// @param cumulative All that an account is to get, in wei.
    /// @param proof Merkle proof of its leaf.
    struct Payout {
        uint256 cumulative;
        bytes32[] proof;
    }

    /// @notice A challenge of a charge.
    /// @param challenger Gets the reward.
    /// @param deadline Time until which nobody can slash for it.
    /// @param over Whether the gateway was slashed.
    struct Challenge {
        address challenger;
        uint64 deadline;
        bool over;
    }

    mapping(address gateway => mapping(address account => Balance)) private _deposits;
    mapping(bytes32 series => Series) private _series;
    mapping(bytes32 series => mapping(uint64 number => Batch)) private _batches;
    mapping(bytes32 leaf => Challenge) private _challenges;

    /// @notice Wei taken from an account's deposit for a series.
    mapping(bytes32 series => mapping(address account => uint128)) public collectedFrom;
    /// @notice Wei paid to an account out of a series.
    mapping(bytes32 series => mapping(address account => uint256)) public claimed;

    /// @notice An account's deposit for a gateway grew.
    event Deposited(address indexed gateway, address indexed account, uint256 amount);
    /// @notice An account asked for so much of a deposit, all requests together; it may take it out from then on.
    event WithdrawalRequested(address indexed gateway, address indexed account, uint256 amount, uint64 readyAt);
    /// @notice An account took out a part of its deposit.
    event Withdrawn(address indexed gateway, address indexed account, uint256 amount);
    /// @notice A gateway settled the next batch of a series.
    event BatchSettled(
        bytes32 indexed series,
        uint64 indexed number,
        address indexed gateway,
        bytes32 priceBook,
        bytes32 charges,
        bytes32 payouts,
        uint128 total
    );
    /// @notice The guardian voided this batch and those after it.
    event BatchesVoided(bytes32 indexed series, uint64 number);
    /// @notice `amount` was taken from an account's deposit, which brings it to `cumulative`.
    event Collected(bytes32 indexed series, address indexed account, uint128 amount, uint128 cumulative);
    /// @notice An account was paid `amount`, which brings it to `cumulative`.
    event PayoutClaimed(bytes32 indexed series, address indexed account, uint256 amount, uint256 cumulative);
    /// @notice A charge must be collected before the deadline.
    event ChargeChallenged(bytes32 indexed series, address indexed account, uint128 cumulative, uint64 deadline);

    /// @notice The caller may not do this.
    error Unauthorized(address caller);
    /// @notice The gateway has too little stake that it did not ask back.
    error StakeTooLow(uint256 required, uint256 standing);
    /// @notice The batch is not the next one of its series.
    error WrongBatch(uint64 expected, uint64 got);
    /// @notice All charges together only grow.
    error NothingCharged(uint128 before, uint128 total);
    /// @notice The series has no such batch.
    error UnknownBatch(bytes32 series, uint64 number);
    /// @notice The batch is active only from this time on.
    error NotActive(uint256 from);
    /// @notice The batch is active already.
    error AlreadyActive(uint64 number);
    /// @notice The proof does not lead to the batch's root.
    error NotInBatch(bytes32 series, uint64 number);
    /// @notice The charge is above the cap.
    error AboveCap(address account, uint128 cap, uint128 cumulative);
    /// @notice The batch was settled after the cap had expired.
    error CapExpired(address account, uint64 expiry);
    /// @notice The charges under a root are more than the batch says.
    error ChargesExceedTotal(uint128 total, uint256 collected);
    /// @notice The batch is not full: `claimShort`.
    error BatchShort(uint128 total, uint128 collected);
    /// @notice The batch is full, or the one before it is not.
    error BatchNotFilling(uint128 from, uint128 total, uint128 collected);
    /// @notice Payouts only grow from a batch to the next one.
    error PayoutDecreased(uint256 before, uint256 cumulative);
    /// @notice The account has been paid this much already.
    error NothingToClaim(address account, uint256 claimed);
    /// @notice A claim exceeds what the series has collected and not paid.
    error ClaimExceedsPot(uint256 available, uint256 requested);
    /// @notice The charge was collected.
    error AlreadyCollected(address account, uint128 collected);
    /// @notice This charge was challenged.
    error ChallengeExists(bytes32 leaf);
    /// @notice This charge was not challenged, or the case is over.
    error NoOpenChallenge(bytes32 leaf);
    /// @notice The charge may still be collected.
    error ResponseWindowOpen(uint64 deadline);

    /// @notice Sets what is fixed: nobody has a role here, and the guardian moves no money.
    /// @param token_ Token of all deposits, stakes and payouts.
    /// @param settings The rest.
    constructor(IERC20 token_, UsageSettings memory settings) GatewayStakes(token_, settings) {}

    /// @notice Deposits `amount` wei, which the caller must have approved, for what `account` uses at a gateway.
    function deposit(address gateway, address account, uint96 amount) external {
        _add(_deposits[gateway][account], amount);
        emit Deposited(gateway, account, amount);
        token.safeTransferFrom(msg.sender, address(this), amount);
    }

    /// @notice Asks for `amount` wei of the caller's deposit, in the place of what it asked for before; zero asks for
    /// nothing. It can be collected until it is taken out, and a gateway should lend nothing on it.
    function requestWithdrawal(address gateway, uint96 amount) external {
        uint64 readyAt = _request(_deposits[gateway][msg.sender], amount);
        emit WithdrawalRequested(gateway, msg.sender, amount, readyAt);
    }

    /// @notice Pays the caller the part of its deposit that it asked for, or what is left of it.
    function withdraw(address gateway) external returns (uint256 amount) {
        amount = _release(_deposits[gateway][msg.sender]);
        emit Withdrawn(gateway, msg.sender, amount);
        token.safeTransfer(msg.sender, amount);
    }

    /// @notice Settles the caller's next batch under a price book. It takes nothing and pays nothing.
    /// @param priceBook Hash of the price book.
    /// @param number Of the batch in its series, from 1.
    /// @param charges Merkle root of all that accounts were ever charged in the series.
    /// @param payouts Merkle root of all that accounts are ever to get of it.
    /// @param total Sum of the leaves of either, in wei.
    function settleBatch(bytes32 priceBook, uint64 number, bytes32 charges, bytes32 payouts, uint128 total) external {
        uint96 standing = _standingStake(msg.sender);
        if (standing < minStake) revert StakeTooLow(minStake, standing);
        bytes32 series = Usage.series(msg.sender, priceBook);
        uint64 last = _series[series].last;
        if (number != last + 1) revert WrongBatch(last + 1, number);
        uint128 before = _batches[series][last].total;
        if (total <= before) revert NothingCharged(before, total);
        _series[series].last = number;
        _batches[series][number] = Batch(charges, payouts, total, uint64(block.timestamp));
        emit BatchSettled(series, number, msg.sender, priceBook, charges, payouts, total);
    }

    /// @notice Voids a batch that is not active yet, and those after it; only the guardian. The gateway settles anew.
    function void(address gateway, bytes32 priceBook, uint64 number) external {
        if (msg.sender != guardian) revert Unauthorized(msg.sender);
        bytes32 series = Usage.series(gateway, priceBook);
        if (block.timestamp >= _activeFrom(_batch(series, number))) revert AlreadyActive(number);
        _series[series].last = number - 1;
        emit BatchesVoided(series, number);
    }

    /// @notice Takes from the deposits of accounts what a batch charges them, as far as they last. Anybody may call, as often
    /// as it likes: nothing is taken twice.
    /// @param gateway The gateway.
    /// @param priceBook Hash of the price book.
    /// @param number Of an active batch.
    /// @param charged Charges, in the order of their leaves in the tree's multiproof, and the caps over them.
    /// @param signatures EIP-2098 signatures of the `capDigest`s, 64 bytes each, by the accounts.
    /// @param proof OpenZeppelin multiproof of the leaves.
    /// @param flags Its flags.
    /// @return amount Wei.
    function collect(
        address gateway,
        bytes32 priceBook,
        uint64 number,
        Charge[] calldata charged,
        bytes calldata signatures,
        bytes32[] calldata proof,
        bool[] calldata flags
    ) external returns (uint256 amount) {
        bytes32 series = Usage.series(gateway, priceBook);
        Batch storage batch = _activeBatch(series, number);
        bytes32[] memory leaves = _leaves(series, charged);
        if (!MerkleProof.multiProofVerifyCalldata(proof, flags, batch.charges, leaves)) {
            revert NotInBatch(series, number);
        }
        _checkCaps(gateway, priceBook, batch.settledAt, charged, signatures);
        amount = _takeAll(gateway, series, charged);
        Series storage books = _series[series];
        if (number > books.newest) books.newest = number;
        uint256 collected = books.collected + amount;
        uint128 total = _batches[series][books.newest].total;
        if (collected > total) revert ChargesExceedTotal(total, collected);
        books.collected = uint128(collected);
    }

    /// @notice Pays `account` what a full batch and all before it give it, less what it was paid. Anybody may call; only
    /// the account is paid.
    function claim(address gateway, bytes32 priceBook, uint64 number, address account, Payout calldata payout)
        external
        returns (uint256 amount)
    {
        bytes32 series = Usage.series(gateway, priceBook);
        Batch storage batch = _activeBatch(series, number);
        uint128 collected = _series[series].collected;
        if (collected < batch.total) revert BatchShort(batch.total, collected);
        _checkPayout(series, number, account, payout);
        return _pay(series, account, payout.cumulative);
    }

    /// @notice Pays `account` its part of a batch that is not full, floored, after all before it are; less what it was paid.
    /// @dev Leaving out what the batch before gave never brings more.
    /// @param gateway The gateway.
    /// @param priceBook Hash of the price book.
    /// @param number Of the batch that is filling.
    /// @param account Account to pay.
    /// @param before What the batch before gives it; zero and no proof if it has no leaf there.
    /// @param payout What this batch gives it.
    function claimShort(
        address gateway,
        bytes32 priceBook,
        uint64 number,
        address account,
        Payout calldata before,
        Payout calldata payout
    ) external returns (uint256 amount) {
        bytes32 series = Usage.series(gateway, priceBook);
        uint128 total = _activeBatch(series, number).total;
        uint128 from = _batches[series][number - 1].total;
        uint128 collected = _series[series].collected;
        if (collected < from || collected >= total) revert BatchNotFilling(from, total, collected);
        if (before.cumulative != 0) _checkPayout(series, number - 1, account, before);
        _checkPayout(series, number, account, payout);
        if (payout.cumulative < before.cumulative) revert PayoutDecreased(before.cumulative, payout.cumulative);
        uint256 part = (payout.cumulative - before.cumulative) * (collected - from) / (total - from);
        return _pay(series, account, before.cumulative + part);
    }

    /// @notice Asks that a charge be collected: one above its cap, or without a deposit behind it, cannot be, and would
    /// thin out what others get. Anybody may ask, and the time counts from the batch's activation.
    /// @param gateway The gateway.
    /// @param priceBook Hash of the price book.
    /// @param number Of a batch that has the charge.
    /// @param account Account that is charged.
    /// @param cumulative What it is charged, in wei.
    /// @param proof Merkle proof of the leaf.
    function challengeCharge(
        address gateway,
        bytes32 priceBook,
        uint64 number,
        address account,
        uint128 cumulative,
        bytes32[] calldata proof
    ) external {
        bytes32 series = Usage.series(gateway, priceBook);
        Batch storage batch = _batch(series, number);
        bytes32 leaf = Usage.leaf(series, account, cumulative);
        if (!MerkleProof.verifyCalldata(proof, batch.charges, leaf)) revert NotInBatch(series, number);
        _requireOpen(series, account, cumulative);
        Challenge storage challenge = _challenges[leaf];
        if (challenge.deadline != 0) revert ChallengeExists(leaf);
        uint256 from = _activeFrom(batch);
        if (from < block.timestamp) from = block.timestamp;
        uint64 deadline = uint64(from) + responseWindow;
        (challenge.challenger, challenge.deadline) = (msg.sender, deadline);
        emit ChargeChallenged(series, account, cumulative, deadline);
    }

    /// @notice Slashes a gateway whose challenged charge was not collected in time. Anybody may call; the challenger is
    /// paid.
    function slashUncollected(address gateway, bytes32 priceBook, address account, uint128 cumulative) external {
        bytes32 series = Usage.series(gateway, priceBook);
        bytes32 leaf = Usage.leaf(series, account, cumulative);
        Challenge storage challenge = _challenges[leaf];
        if (challenge.deadline == 0 || challenge.over) revert NoOpenChallenge(leaf);
        if (block.timestamp <= challenge.deadline) revert ResponseWindowOpen(challenge.deadline);
        _requireOpen(series, account, cumulative);
        challenge.over = true;
        _slash(gateway, challenge.challenger);
    }

    /// @notice An account's deposit for a gateway, and what it asked for of it.
    function depositOf(address gateway, address account) external view returns (Balance memory) {
        return _deposits[gateway][account];
    }

    /// @notice Name of the batches of a gateway under a price book.
    function seriesOf(address gateway, bytes32 priceBook) external pure returns (bytes32) {
        return Usage.series(gateway, priceBook);
    }

    /// @notice Money and last batch of a series.
    function booksOf(bytes32 series) external view returns (Series memory) {
        return _series[series];
    }

    /// @notice A batch of a series.
    function batchOf(bytes32 series, uint64 number) external view returns (Batch memory) {
        return _batch(series, number);
    }

    /// @notice The challenge of a charge; all zero when there is none.
    function challengeOf(bytes32 series, address account, uint128 cumulative) external view returns (Challenge memory) {
        return _challenges[Usage.leaf(series, account, cumulative)];
    }

    /// @notice EIP-712 digest of a cap, which the account signs.
    /// @param gateway The gateway.
    /// @param priceBook Hash of the price book.
    /// @param charge Account, cap and expiry; what it is charged does not count.
    function capDigest(address gateway, bytes32 priceBook, Charge calldata charge) public view returns (bytes32) {
        return _hashTypedDataV4(Usage.hash(gateway, priceBook, charge));
    }

    function _checkCaps(
        address gateway,
        bytes32 priceBook,
        uint64 settledAt,
        Charge[] calldata charged,
        bytes calldata signatures
    ) private view {
        _checkLength(signatures, charged.length);
        for (uint256 i; i < charged.length; ++i) {
            Charge calldata charge = charged[i];
            if (charge.cumulative > charge.cap) revert AboveCap(charge.account, charge.cap, charge.cumulative);
            if (settledAt > charge.expiry) revert CapExpired(charge.account, charge.expiry);
            bytes calldata signature = signatures[i * Signatures.LENGTH:(i + 1) * Signatures.LENGTH];
            _checkSignature(charge.account, capDigest(gateway, priceBook, charge), signature);
        }
    }

    function _takeAll(address gateway, bytes32 series, Charge[] calldata charged) private returns (uint256 amount) {
        mapping(address account => Balance) storage deposits = _deposits[gateway];
        for (uint256 i; i < charged.length; ++i) {
            amount += _take(deposits[charged[i].account], series, charged[i].account, charged[i].cumulative);
        }
    }

    /// @dev Takes what the account owes under the series, or all of its deposit.
    function _take(Balance storage deposit_, bytes32 series, address account, uint128 cumulative)
        private
        returns (uint128 amount)
    {
        uint128 before = collectedFrom[series][account];
        if (cumulative <= before) return 0;
        uint96 available = deposit_.amount;
        amount = cumulative - before;
        if (amount > available) amount = available;
        if (amount == 0) return 0;
        deposit_.amount = available - uint96(amount);
        collectedFrom[series][account] = before + amount;
        emit Collected(series, account, amount, before + amount);
    }

    /// @dev Brings what an account was paid to `cumulative`.
    function _pay(bytes32 series, address account, uint256 cumulative) private returns (uint256 amount) {
        uint256 before = claimed[series][account];
        if (cumulative <= before) revert NothingToClaim(account, before);
        amount = cumulative - before;
        Series storage books = _series[series];
        (uint128 collected, uint128 paid) = (books.collected, books.paid);
        if (amount > collected - paid) revert ClaimExceedsPot(collected - paid, amount);
        books.paid = paid + uint128(amount);
        claimed[series][account] = cumulative;
        emit PayoutClaimed(series, account, amount, cumulative);
        token.safeTransfer(account, amount);
    }

    function _leaves(bytes32 series, Charge[] calldata charged) private view returns (bytes32[] memory leaves) {
        leaves = new bytes32[](charged.length);
        for (uint256 i; i < charged.length; ++i) {
            leaves[i] = Usage.leaf(series, charged[i].account, charged[i].cumulative);
        }
    }

    function _checkPayout(bytes32 series, uint64 number, address account, Payout calldata payout) private view {
        bytes32 leaf = Usage.leaf(series, account, payout.cumulative);
        if (!MerkleProof.verifyCalldata(payout.proof, _batches[series][number].payouts, leaf)) {
            revert NotInBatch(series, number);
        }
    }

    function _requireOpen(bytes32 series, address account, uint128 cumulative) private view {
        uint128 collected = collectedFrom[series][account];
        if (collected >= cumulative) revert AlreadyCollected(account, collected);
    }

    function _batch(bytes32 series, uint64 number) private view returns (Batch storage) {
        if (number == 0 || number > _series[series].last) revert UnknownBatch(series, number);
        return _batches[series][number];
    }

    function _activeBatch(bytes32 series, uint64 number) private view returns (Batch storage batch) {
        batch = _batch(series, number);
        uint256 from = _activeFrom(batch);
        if (block.timestamp < from) revert NotActive(from);
    }

    function _activeFrom(Batch storage batch) private view returns (uint256) {
        return uint256(batch.settledAt) + activationDelay;
    }
}
