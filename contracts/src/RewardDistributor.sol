// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {AccessControlEnumerable} from "@openzeppelin/contracts/access/extensions/AccessControlEnumerable.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";
import {StakeVault} from "./StakeVault.sol";

/// @title Reward pools and claims
/// @notice Holds every task's pool. A settled epoch commits a part of it under a Merkle root of cumulative rewards, from
/// which accounts are paid at any time. For each task: claimed <= committed <= deposited, whatever a quorum signs.
/// With an activation delay a root pays only after that many seconds, in which a guardian may disable it; the task then
/// settles nothing more until a quorum has signed a correction. The guardian moves no money and stops no active root.
/// @dev Not upgradeable. Every function that pays has written its books before. The token must be a plain ERC-20 (no fee
/// on transfer, supply below 2^128); `FlockToken` is.
contract RewardDistributor is AccessControlEnumerable {
    using SafeERC20 for IERC20;

    /// @notice A task's money in wei, and the root that pays.
    /// @param root Active Merkle root of the cumulative rewards.
    /// @param committed Rewards promised by all settled epochs, pending ones included.
    /// @param claimed Rewards paid.
    /// @param deposited Pool that came in, less refunds.
    /// @param reserve Part of the pool that only the last epoch may commit; zero from then on.
    /// @param escrow Own stake that slashes took: in no budget, and not the creator's.
    struct Account {
        bytes32 root;
        uint128 committed;
        uint128 claimed;
        uint128 deposited;
        uint128 reserve;
        uint128 escrow;
    }

    /// @notice A root that waits for its activation.
    struct Pending {
        bytes32 root;
        uint128 total;
        uint64 readyAt;
    }

    /// @notice Roots of a task that do not pay yet.
    /// @param first The older one, whose time comes first; none if `readyAt` is zero.
    /// @param latest The newest one, if it is another: settled while `first` waited, it may have replaced others.
    /// @param activeTotal Rewards committed under the active root.
    /// @param frozen Whether a root was disabled and no correction has come.
    /// @param disabled The root that was disabled last.
    struct Queue {
        Pending first;
        Pending latest;
        bytes32 disabled;
        uint128 activeTotal;
        bool frozen;
    }

    /// @notice May disable roots that are not active yet.
    bytes32 public constant GUARDIAN_ROLE = keccak256("GUARDIAN_ROLE");

    /// @notice Token of all pools.
    IERC20 public immutable token;

    /// @notice The only contract that deposits and refunds.
    address public immutable registry;

    /// @notice The only contract that commits.
    address public immutable settlement;

    /// @notice Shares out among an operator and its delegators what the operator earned.
    StakeVault public immutable vault;

    /// @notice Seconds from the settlement of a root to its activation; zero: at once.
    uint64 public immutable activationDelay;

    /// @dev In the place of what an account was paid: it is paid through its pool, and has nothing to claim for itself.
    uint256 private constant TO_POOL = type(uint256).max;

    mapping(bytes32 task => mapping(address account => uint256)) private _claimed;
    mapping(bytes32 task => mapping(address account => uint256)) private _paidToPool;
    mapping(bytes32 task => Account) private _accounts;
    mapping(bytes32 task => Queue) private _queues;

    /// @notice An account was paid `amount`, which brings it to `cumulative`.
    event Claimed(bytes32 indexed task, address indexed account, uint256 amount, uint256 cumulative);
    /// @notice An account's rewards of a task go to its pool from now on.
    event PoolPaymentSet(bytes32 indexed task, address indexed account);
    /// @notice A root became the one that pays.
    event RootActivated(bytes32 indexed task, bytes32 root);
    /// @notice The guardian disabled a root; the task is frozen.
    event RootDisabled(bytes32 indexed task, bytes32 root);
    /// @notice A closed task's escrow, and its end share if the last epoch was not settled, went to the sink.
    event Sunk(bytes32 indexed task, uint128 amount);
    /// @notice A correction ended the freeze.
    event RootCorrected(bytes32 indexed task, bytes32 root, uint128 total);

    /// @notice The caller may not do this.
    error Unauthorized(address caller);
    /// @notice Cumulative rewards only grow.
    error RewardsDecreased(uint128 committed, uint128 requested);
    /// @notice An epoch's rewards exceed its share of the pool.
    error OverBudget(uint128 budget, uint128 requested);
    /// @notice A claim exceeds what the task still owes.
    error ClaimExceedsCommitted(uint256 available, uint256 requested);
    /// @notice The proof does not lead to the task's active root.
    error InvalidProof(bytes32 task, address account, uint256 cumulative);
    /// @notice The proof of several accounts does not lead to the task's active root.
    error InvalidMultiProof(bytes32 task);
    /// @notice There must be one amount for each account.
    error LengthMismatch(uint256 accounts, uint256 amounts);
    /// @notice The account has been paid this much already.
    error NothingToClaim(address account, uint256 claimed);
    /// @notice The account's rewards of this task go to its pool: `claimToPool`.
    error PaidToPool(address account);
    /// @notice The account's rewards of this task do not go to its pool: `claim`.
    error NotPaidToPool(address account);
    /// @notice No such root waits for its activation.
    error NotPending(bytes32 task, bytes32 root);
    /// @notice A root was disabled; the task waits for a correction.
    error Frozen(bytes32 task, bytes32 disabled);
    /// @notice Nothing is to be corrected.
    error NotFrozen(bytes32 task);
    /// @notice A correction commits more than the report did, or less than stands.
    error WrongCorrection(uint128 minimum, uint128 maximum, uint128 requested);

    modifier onlyRegistry() {
        if (msg.sender != registry) revert Unauthorized(msg.sender);
        _;
    }

    modifier onlySettlement() {
        if (msg.sender != settlement) revert Unauthorized(msg.sender);
        _;
    }

    /// @notice Ties the contracts for good.
    /// @param token_ Token of all pools.
    /// @param registry_ Deposits and refunds.
    /// @param settlement_ Commits.
    /// @param vault_ Holds the operators' pools; may be deployed later, at this address.
    /// @param activationDelay_ Seconds until a root pays.
    /// @param admin Grants and revokes the guardian's role.
    constructor(
        IERC20 token_,
        address registry_,
        address settlement_,
        StakeVault vault_,
        uint64 activationDelay_,
        address admin
    ) {
        vault = vault_;
        token = token_;
        // slither-disable-next-line missing-zero-check: public for good, compared before use
        registry = registry_;
        // slither-disable-next-line missing-zero-check: public for good, compared before use
        settlement = settlement_;
        activationDelay = activationDelay_;
        _grantRole(DEFAULT_ADMIN_ROLE, admin);
    }

    /// @notice Takes note of tokens that the registry is about to send for a task's pool.
    /// @param task Task.
    /// @param amount Wei.
    /// @param reserve Part of it that only the last epoch may commit.
    function deposit(bytes32 task, uint128 amount, uint128 reserve) external onlyRegistry {
        Account storage account = _accounts[task];
        account.deposited += amount;
        account.reserve += reserve;
    }

    /// @notice Takes note of slashed stake that the registry is about to have sent for a task.
    function depositEscrow(bytes32 task, uint128 amount) external onlyRegistry {
        _accounts[task].escrow += amount;
    }

    /// @notice Pays a closed task's uncommitted rest to `to`, and to `sink` its escrow and, if the task ran, what is left of
    /// the end share: its last epoch was not settled then.
    function refund(bytes32 task, address to, address sink, bool started)
        external
        onlyRegistry
        returns (uint128 amount)
    {
        Account storage account = _accounts[task];
        (uint128 committed, uint128 reserve) = (account.committed, account.reserve);
        amount = account.deposited - committed;
        uint128 lost = account.escrow;
        if (started) (amount, lost) = (amount - reserve, lost + reserve);
        (account.deposited, account.reserve, account.escrow) = (committed, 0, 0);
        token.safeTransfer(to, amount);
        if (lost == 0) return amount;
        emit Sunk(task, lost);
        token.safeTransfer(sink, lost);
    }

    /// @notice From now on an account's rewards of a task go to its pool, and to nobody else.
    function payToPool(bytes32 task, address account) external onlyRegistry {
        uint256 paid = _claimed[task][account];
        if (paid == TO_POOL) return;
        _paidToPool[task][account] = paid;
        _claimed[task][account] = TO_POOL;
        emit PoolPaymentSet(task, account);
    }

    /// @notice Commits a settled epoch's rewards, whose report the settlement contract has checked.
    /// @param task Task.
    /// @param root Merkle root of the cumulative rewards.
    /// @param total Their sum.
    /// @param epochsLeft Epochs of the task that are not settled yet, this one included.
    function commit(bytes32 task, bytes32 root, uint128 total, uint256 epochsLeft) external onlySettlement {
        Account storage account = _accounts[task];
        uint128 committed = account.committed;
        if (total < committed) revert RewardsDecreased(committed, total);
        uint128 available = _budget(account, committed, epochsLeft);
        unchecked {
            if (total - committed > available) revert OverBudget(available, total - committed);
        }

        account.committed = total;
        if (epochsLeft == 1 && account.reserve != 0) account.reserve = 0;
        if (activationDelay == 0) account.root = root;
        else _enqueue(task, root, total);
    }

    /// @notice Replaces what the guardian disabled by what a quorum signed instead.
    function correct(bytes32 task, bytes32 root, uint128 total) external onlySettlement {
        Queue storage queue = _queues[task];
        Account storage account = _accounts[task];
        if (!queue.frozen) revert NotFrozen(task);
        _promote(task);
        uint128 standing = queue.first.readyAt == 0 ? queue.activeTotal : queue.first.total;
        if (total < standing || total > account.committed) revert WrongCorrection(standing, account.committed, total);

        queue.frozen = false;
        account.committed = total;
        emit RootCorrected(task, root, total);
        _enqueue(task, root, total);
    }

    /// @notice Disables a root before it pays, and freezes its task; only a guardian.
    /// @param task Task.
    /// @param root Root that waits; one that was settled after it falls with it.
    function disable(bytes32 task, bytes32 root) external onlyRole(GUARDIAN_ROLE) {
        _promote(task);
        Queue storage queue = _queues[task];
        if (queue.first.readyAt != 0 && queue.first.root == root) delete queue.first;
        else if (queue.latest.readyAt == 0 || queue.latest.root != root) revert NotPending(task, root);
        delete queue.latest;
        queue.frozen = true;
        queue.disabled = root;
        emit RootDisabled(task, root);
    }

    /// @notice Activates the roots whose time has come. Settlements and claims do it too.
    function promote(bytes32 task) external {
        _promote(task);
    }

    /// @notice Pays `account` what it earned on a task since its last claim. Anybody may call; only the account is paid.
    /// @param task Task, running or closed.
    /// @param account Account to pay.
    /// @param cumulative All that the account ever earned on the task, in wei.
    /// @param proof Merkle proof of the leaf (chain id, this contract, task, account, cumulative).
    function claim(bytes32 task, address account, uint256 cumulative, bytes32[] calldata proof) external {
        if (activationDelay != 0) _promote(task);
        Account storage books = _accounts[task];
        if (!MerkleProof.verifyCalldata(proof, books.root, _leaf(task, account, cumulative))) {
            revert InvalidProof(task, account, cumulative);
        }
        mapping(address account => uint256) storage paid = _claimed[task];
        uint256 amount = _credit(paid, task, account, cumulative);
        if (amount == 0) _refuse(account, paid[account]);
        _count(books, amount);
        token.safeTransfer(account, amount);
    }

    /// @notice Pays into the pool of `account` what it earned on a task since the last time, for itself and its delegators.
    /// Anybody may call; who delegates should, before it leaves the pool or others enter it.
    /// @param task Task, running or closed, that the account joined with delegators.
    /// @param account Operator of the pool.
    /// @param cumulative All that the account ever earned on the task, in wei.
    /// @param proof Merkle proof, as in `claim`.
    function claimToPool(bytes32 task, address account, uint256 cumulative, bytes32[] calldata proof) external {
        if (activationDelay != 0) _promote(task);
        Account storage books = _accounts[task];
        if (!MerkleProof.verifyCalldata(proof, books.root, _leaf(task, account, cumulative))) {
            revert InvalidProof(task, account, cumulative);
        }
        if (!paidToPool(task, account)) revert NotPaidToPool(account);
        uint256 amount = _credit(_paidToPool[task], task, account, cumulative);
        if (amount == 0) revert NothingToClaim(account, _paidToPool[task][account]);
        _count(books, amount);
        token.safeTransfer(address(vault), amount);
        vault.distribute(account, amount);
    }

    /// @notice Pays several accounts at once; one that has been paid already, or is paid through its pool, is left out.
    /// @param task Task, running or closed.
    /// @param accounts Accounts to pay, in the order of their leaves in the tree's multiproof.
    /// @param cumulatives All that each ever earned on the task, in wei.
    /// @param proof OpenZeppelin multiproof of the leaves.
    /// @param flags Its flags.
    function claimMany(
        bytes32 task,
        address[] calldata accounts,
        uint256[] calldata cumulatives,
        bytes32[] calldata proof,
        bool[] calldata flags
    ) external {
        if (accounts.length != cumulatives.length) {
            revert LengthMismatch(accounts.length, cumulatives.length);
        }
        if (activationDelay != 0) _promote(task);
        if (!MerkleProof.multiProofVerifyCalldata(
                proof, flags, _accounts[task].root, _leaves(task, accounts, cumulatives)
            )) revert InvalidMultiProof(task);

        // slither-disable-next-line uninitialized-local: from zero up
        uint256 total;
        uint256[] memory amounts = new uint256[](accounts.length);
        mapping(address account => uint256) storage paid = _claimed[task];
        for (uint256 i; i < accounts.length; ++i) {
            amounts[i] = _credit(paid, task, accounts[i], cumulatives[i]);
            total += amounts[i];
        }
        _count(_accounts[task], total);
        for (uint256 i; i < accounts.length; ++i) {
            if (amounts[i] != 0) token.safeTransfer(accounts[i], amounts[i]);
        }
    }

    /// @notice Wei paid so far from a task's rewards to an account, or to its pool.
    function claimed(bytes32 task, address account) external view returns (uint256) {
        return paidToPool(task, account) ? _paidToPool[task][account] : _claimed[task][account];
    }

    /// @notice Whether an account's rewards of a task go to its pool.
    function paidToPool(bytes32 task, address account) public view returns (bool) {
        return _claimed[task][account] == TO_POOL;
    }

    /// @notice A task's money and its active root.
    function accountOf(bytes32 task) external view returns (Account memory) {
        return _accounts[task];
    }

    /// @notice A task's roots that do not pay yet.
    function queueOf(bytes32 task) external view returns (Queue memory) {
        return _queues[task];
    }

    /// @notice The most that the next epoch may commit when so many epochs are left, it included.
    function budget(bytes32 task, uint256 epochsLeft) external view returns (uint128) {
        Account storage account = _accounts[task];
        return _budget(account, account.committed, epochsLeft);
    }

    /// @dev committed + reserve <= deposited until the last epoch, which may commit all.
    function _budget(Account storage account, uint128 committed, uint256 epochsLeft) private view returns (uint128) {
        (uint128 deposited, uint128 reserve) = (account.deposited, account.reserve);
        unchecked {
            return epochsLeft == 1 ? deposited - committed : uint128((deposited - committed - reserve) / epochsLeft);
        }
    }

    function _count(Account storage books, uint256 amount) private {
        (uint128 committed, uint128 paid) = (books.committed, books.claimed);
        if (amount > committed - paid) revert ClaimExceedsCommitted(committed - paid, amount);
        unchecked {
            books.claimed = paid + uint128(amount);
        }
    }

    /// @dev Notes that an account is paid up to `cumulative`; returns what it still had to get, maybe nothing.
    function _credit(
        mapping(address account => uint256) storage paid,
        bytes32 task,
        address account,
        uint256 cumulative
    ) private returns (uint256 amount) {
        uint256 before = paid[account];
        if (cumulative <= before) return 0;
        unchecked {
            amount = cumulative - before;
        }
        paid[account] = cumulative;
        emit Claimed(task, account, amount, cumulative);
    }

    function _refuse(address account, uint256 paid) private pure {
        if (paid == TO_POOL) revert PaidToPool(account);
        revert NothingToClaim(account, paid);
    }

    function _leaves(bytes32 task, address[] calldata accounts, uint256[] calldata cumulatives)
        private
        view
        returns (bytes32[] memory leaves)
    {
        leaves = new bytes32[](accounts.length);
        for (uint256 i; i < accounts.length; ++i) {
            leaves[i] = _leaf(task, accounts[i], cumulatives[i]);
        }
    }

    /// @dev Hashed twice: no inner node of a tree is a leaf.
    function _leaf(bytes32 task, address account, uint256 cumulative) private view returns (bytes32 leaf) {
        assembly ("memory-safe") {
            let words := mload(0x40)
            mstore(words, chainid())
            mstore(add(words, 32), address())
            mstore(add(words, 64), task)
            mstore(add(words, 96), shr(96, shl(96, account)))
            mstore(add(words, 128), cumulative)
            mstore(0, keccak256(words, 160))
            leaf := keccak256(0, 32)
        }
    }

    /// @dev A root that is settled while another waits waits behind it: a settlement starts nobody else's time anew.
    function _enqueue(bytes32 task, bytes32 root, uint128 total) private {
        Queue storage queue = _queues[task];
        if (queue.frozen) revert Frozen(task, queue.disabled);
        _promote(task);
        Pending memory pending = Pending(root, total, uint64(block.timestamp) + activationDelay);
        if (queue.first.readyAt == 0) queue.first = pending;
        else queue.latest = pending;
    }

    function _promote(bytes32 task) private {
        Queue storage queue = _queues[task];
        for (uint64 readyAt = queue.first.readyAt; readyAt != 0 && readyAt <= block.timestamp;) {
            bytes32 root = queue.first.root;
            _accounts[task].root = root;
            queue.activeTotal = queue.first.total;
            emit RootActivated(task, root);
            queue.first = queue.latest;
            delete queue.latest;
            readyAt = queue.first.readyAt;
        }
    }
}
