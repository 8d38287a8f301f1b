// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {Delegation, Pool, Request, StakePools, StoredDelegation, Thawing} from "./libraries/StakePools.sol";

/// @notice What the vault asks the distributor when it is deployed.
interface IActivationDelay {
    function activationDelay() external view returns (uint64);
}

/// @title Stake of operators and their delegators
/// @notice One pool for each operator: its own stake, and its delegators' stake by shares. Rewards are kept apart from
/// stake. Stake leaves through an unbonding time in which it can still be slashed.
///
/// Locks: a task locks own stake of a pool, and delegators' stake beside it only if the operator has named the task's
/// creator long enough ago that whoever dislikes it is out. Of such a lock own stake covers its part of what is free in the
/// pool, at least a fifth, and is lost first. A new lock must be covered by active stake that no other lock uses, so no
/// stake answers twice. Leaving may be asked for at any time, also for locked stake, but is paid only while what remains
/// of its kind, active and thawing, covers the locks: a slash does not come too late for what thaws, and nobody leaves
/// others to answer for its locks. A lock made after a request does not count on what thaws.
///
/// Nobody delegates to an operator that does not accept it: what comes in takes its part of the operator's rewards.
/// @dev The token must be a plain ERC-20: no fee on transfer, no rebase, no call to the receiver, and less than 2^92 wei
/// of it (`FlockToken` has less than 2^90). Tokens sent here without a call change nothing and cannot be taken out.
contract StakeVault is ReentrancyGuardTransient {
    using SafeCast for uint256;
    using SafeERC20 for IERC20;
    using StakePools for Pool;
    using StakePools for StoredDelegation;
    using StakePools for Thawing;

    /// @notice What is fixed at deployment.
    /// @param epochLength Seconds of a vault epoch, at least a minute.
    /// @param unbondingEpochs Whole epochs that stake thaws, besides the one of the request.
    /// @param commissionDelay Epochs before a new commission counts, longer than `unbondingEpochs`: whoever dislikes it is out.
    /// @param minDelegation Least shares a delegator holds (a share is worth one wei before any slash), at least 2^44.
    struct Settings {
        uint32 epochLength;
        uint32 unbondingEpochs;
        uint32 commissionDelay;
        uint96 minDelegation;
    }

    /// @notice A pool as it stands; amounts in wei.
    struct PoolInfo {
        uint256 own;
        uint256 delegated;
        uint256 shares;
        uint256 earningShares;
        uint256 ownThawing;
        uint256 thawing;
        uint256 ownLocked;
        uint256 delegatedLocked;
        uint256 operatorRewards;
        uint256 generation;
        bool accepts;
    }

    /// @notice A delegator's part of a pool: shares, those that earn in this epoch, their worth and the unclaimed rewards.
    struct DelegationInfo {
        uint256 shares;
        uint256 earningShares;
        uint256 assets;
        uint256 rewards;
    }

    /// @notice What a task has locked of a pool, in wei: the operator's own, which is lost first, and its delegators'.
    struct Lock {
        uint96 own;
        uint96 delegated;
    }

    /// @notice Own stake covers at least 1 / `OWN_DIVISOR` of a lock that delegators back.
    uint256 public constant OWN_DIVISOR = 5;
    /// @notice A vault epoch lasts at least so many activation delays of reward roots: who delegates when rewards are known
    /// already earns only after everybody could have had them paid.
    uint256 public constant DELAYS_AN_EPOCH = 4;
    /// @notice Highest commission, in basis points.
    uint256 public constant MAX_COMMISSION = 5_000;
    /// @notice Most that one change moves the commission, in basis points.
    uint256 public constant MAX_COMMISSION_STEP = 1_000;
    /// @notice Longest unbonding time and commission delay, in epochs.
    uint256 public constant MAX_DELAY = 10_000;
    /// @notice Lowest allowed `minDelegation`: rewards a share then fit their field whatever is ever paid in.
    uint256 public constant LOWEST_MIN_DELEGATION = 2 ** 44;

    /// @notice Token of all stakes and rewards.
    IERC20 public immutable token;
    /// @notice The only contract that locks, releases and slashes.
    address public immutable registry;
    /// @notice The only contract that pays rewards in.
    address public immutable distributor;
    /// @notice Seconds of a vault epoch.
    uint32 public immutable epochLength;
    /// @notice Whole epochs that stake thaws.
    uint32 public immutable unbondingEpochs;
    /// @notice Epochs before a new commission counts.
    uint32 public immutable commissionDelay;
    /// @notice Least shares a delegator holds.
    uint96 public immutable minDelegation;

    mapping(address operator => Pool) private _pools;
    mapping(address operator => mapping(address account => StoredDelegation)) private _delegations;
    mapping(address operator => mapping(address account => mapping(uint256 epoch => Request))) private _requests;
    mapping(address operator => mapping(uint256 epoch => Request)) private _ownRequests;
    mapping(bytes32 task => mapping(address operator => Lock)) private _locks;
    mapping(address operator => mapping(address creator => uint256 epoch)) private _servedFrom;

    /// @dev Wei that slashes of this transaction took and that is not paid out.
    uint256 private transient _taken;

    /// @notice An operator added to its own stake.
    event Staked(address indexed operator, uint256 amount);
    /// @notice An operator asked for own stake back; it thaws from this epoch on.
    event Unstaked(address indexed operator, uint256 indexed epoch, uint256 amount);
    /// @notice An account delegated to an operator.
    event Delegated(address indexed operator, address indexed account, uint256 amount, uint256 shares);
    /// @notice A delegator asked for stake back; it thaws from this epoch on.
    event Undelegated(
        address indexed operator, address indexed account, uint256 indexed epoch, uint256 amount, uint256 shares
    );
    /// @notice Thawed stake was paid out; to the operator itself when `account` is the operator and `own` holds.
    event Withdrawn(address indexed operator, address indexed account, uint256 indexed epoch, uint256 amount, bool own);
    /// @notice Rewards came in; the operator has what is not `toDelegators`.
    event RewardsDistributed(address indexed operator, uint256 amount, uint256 toDelegators);
    /// @notice A delegator took its rewards.
    event RewardsClaimed(address indexed operator, address indexed account, uint256 amount);
    /// @notice An operator took its own rewards and commission.
    event OperatorRewardsClaimed(address indexed operator, uint256 amount);
    /// @notice An operator's commission changes at the start of `epoch`.
    event CommissionScheduled(address indexed operator, uint256 commission, uint256 indexed epoch);
    /// @notice An operator's pool may serve the tasks of a creator from this epoch on.
    event CreatorAdded(address indexed operator, address indexed creator, uint256 indexed epoch);
    /// @notice An operator's pool serves no more tasks of a creator; those that it serves already go on.
    event CreatorRemoved(address indexed operator, address indexed creator);
    /// @notice Stake was locked for a task, the operator's own and its delegators'.
    event Locked(bytes32 indexed task, address indexed operator, uint256 own, uint256 delegated);
    /// @notice What was left of a task's lock was released.
    event Unlocked(bytes32 indexed task, address indexed operator, uint256 amount);
    /// @notice Locked stake was taken, the operator's own and its delegators'.
    event Slashed(bytes32 indexed task, address indexed operator, uint256 own, uint256 delegated);

    /// @notice An operator accepts new delegations from now on, or no more.
    event AcceptanceSet(address indexed operator, bool accepts);

    /// @notice The caller may not do this.
    error Unauthorized(address caller);
    /// @notice A setting is out of its bounds.
    error InvalidSettings();
    /// @notice An amount must not be zero.
    error ZeroAmount();
    /// @notice There is less than was asked for: wei of stake, or shares of a delegation.
    error StakeUnavailable(uint256 available, uint256 requested);
    /// @notice The operator accepts no new delegations.
    error NotAccepting(address operator);
    /// @notice The delegator would hold fewer shares than the least, and not none.
    error BelowMinimum(uint256 minimum, uint256 shares);
    /// @notice The stake thaws until the start of this epoch.
    error StillThawing(uint256 epoch);
    /// @notice The account asked for nothing in that epoch, or has it already.
    error NothingToWithdraw(address account, uint256 epoch);
    /// @notice The withdrawal would leave less stake than the tasks have locked.
    error StakeLocked(uint256 locked, uint256 remaining);
    /// @notice The operator's pool serves this creator, from this epoch on.
    error AlreadyServed(address creator, uint256 epoch);
    /// @notice The commission is too high.
    error CommissionTooHigh(uint256 maximum, uint256 commission);
    /// @notice The commission moves too far in one step.
    error CommissionStepTooLarge(uint256 current, uint256 commission);

    modifier onlyRegistry() {
        if (msg.sender != registry) revert Unauthorized(msg.sender);
        _;
    }

    /// @notice Ties the contracts for good and sets what is fixed: nobody has a role here.
    /// @param token_ Token of all stakes and rewards.
    /// @param registry_ Locks, releases and slashes; may be deployed later, at this address.
    /// @param distributor_ Pays rewards in.
    /// @param settings The rest.
    constructor(IERC20 token_, address registry_, address distributor_, Settings memory settings) {
        bool valid = settings.epochLength >= 1 minutes && settings.unbondingEpochs != 0
            && settings.commissionDelay > settings.unbondingEpochs && settings.commissionDelay <= MAX_DELAY
            && settings.minDelegation >= LOWEST_MIN_DELEGATION
            && IActivationDelay(distributor_).activationDelay() <= settings.epochLength / DELAYS_AN_EPOCH;
        if (!valid) revert InvalidSettings();
        // slither-disable-next-line missing-zero-check: public for good, compared before use
        registry = registry_;
        // slither-disable-next-line missing-zero-check: public for good, compared before use
        distributor = distributor_;
        token = token_;
        epochLength = settings.epochLength;
        unbondingEpochs = settings.unbondingEpochs;
        commissionDelay = settings.commissionDelay;
        minDelegation = settings.minDelegation;
    }

    /// @notice Adds `amount` wei, which the caller must have approved, to the caller's own stake as operator.
    function stake(uint256 amount) external nonReentrant {
        if (amount == 0) revert ZeroAmount();
        _pools[msg.sender].addOwn(amount.toUint96(), currentEpoch());
        emit Staked(msg.sender, amount);
        token.safeTransferFrom(msg.sender, address(this), amount);
    }

    /// @notice Asks for `amount` wei of the caller's own stake back. Requests of one epoch are one.
    function unstake(uint256 amount) external nonReentrant {
        if (amount == 0) revert ZeroAmount();
        Pool storage pool_ = _pools[msg.sender];
        uint96 own = pool_.own;
        if (amount > own) revert StakeUnavailable(own, amount);
        uint32 epoch = currentEpoch();
        pool_.own = uint96(own - amount);
        pool_.ownThawing.thaw(_ownRequests[msg.sender][epoch], uint96(amount));
        emit Unstaked(msg.sender, epoch, amount);
    }

    /// @notice Pays the caller the own stake that it asked for in `epoch`, less what was slashed since.
    function withdrawStake(uint32 epoch) external nonReentrant returns (uint256 amount) {
        Pool storage pool_ = _pools[msg.sender];
        amount = _release(pool_.ownThawing, _ownRequests[msg.sender][epoch], epoch);
        _requireCovered(pool_.ownLocked, uint256(pool_.own) + pool_.ownThawing.assets);
        emit Withdrawn(msg.sender, msg.sender, epoch, amount, true);
        token.safeTransfer(msg.sender, amount);
    }

    /// @notice Sets the caller's commission on its delegators' rewards, from `commissionDelay` epochs on. Replaces a change
    /// that does not count yet.
    function setCommission(uint16 commission_) external {
        Pool storage pool_ = _pools[msg.sender];
        uint32 epoch = currentEpoch();
        uint16 current = pool_.commissionAt(epoch);
        if (commission_ > MAX_COMMISSION) revert CommissionTooHigh(MAX_COMMISSION, commission_);
        uint16 step = commission_ > current ? commission_ - current : current - commission_;
        if (step > MAX_COMMISSION_STEP) revert CommissionStepTooLarge(current, commission_);
        uint32 from = epoch + commissionDelay;
        (pool_.commission, pool_.nextCommission, pool_.commissionEpoch) = (current, commission_, from);
        emit CommissionScheduled(msg.sender, commission_, from);
    }

    /// @notice Sets whether the caller accepts delegations from now on; those it has stay. At first nobody does.
    function setAcceptance(bool accepts) external {
        _pools[msg.sender].accepts = accepts;
        emit AcceptanceSet(msg.sender, accepts);
    }

    /// @notice Lets the caller's pool serve the tasks of `creator` from `commissionDelay` epochs on: whoever dislikes it is
    /// out by then. Without a creator only own stake is locked.
    function addCreator(address creator) external {
        uint256 from = _servedFrom[msg.sender][creator];
        if (from != 0) revert AlreadyServed(creator, from);
        from = uint256(currentEpoch()) + commissionDelay;
        _servedFrom[msg.sender][creator] = from;
        emit CreatorAdded(msg.sender, creator, from);
    }

    /// @notice Lets the caller's pool serve no more tasks of `creator`, from now on.
    function removeCreator(address creator) external {
        delete _servedFrom[msg.sender][creator];
        emit CreatorRemoved(msg.sender, creator);
    }

    /// @notice Pays the caller its rewards and commission as operator.
    function claimOperatorRewards() external nonReentrant returns (uint256 amount) {
        Pool storage pool_ = _pools[msg.sender];
        amount = pool_.operatorRewards;
        pool_.operatorRewards = 0;
        emit OperatorRewardsClaimed(msg.sender, amount);
        token.safeTransfer(msg.sender, amount);
    }

    /// @notice Delegates `amount` wei of the caller's, which it must have approved. It earns from the second epoch after this
    /// one on.
    function delegate(address operator, uint256 amount) external nonReentrant returns (uint256 shares) {
        if (amount == 0) revert ZeroAmount();
        uint32 epoch = currentEpoch();
        Pool storage pool_ = _pools[operator];
        if (!pool_.accepts) revert NotAccepting(operator);
        StoredDelegation storage stored = _delegations[operator][msg.sender];
        Delegation memory synced = stored.load();
        // slither-disable-next-line unused-return: all of it is stored
        pool_.sync(synced, epoch);
        shares = pool_.add(synced, amount.toUint96(), epoch);
        _requireMinimum(synced.shares);
        stored.store(synced, true);
        emit Delegated(operator, msg.sender, amount, shares);
        token.safeTransferFrom(msg.sender, address(this), amount);
    }

    /// @notice Asks for `shares` of the caller's back; they earn no more. Requests of one epoch are one.
    function undelegate(address operator, uint256 shares) external nonReentrant returns (uint256 amount) {
        if (shares == 0) revert ZeroAmount();
        uint32 epoch = currentEpoch();
        Pool storage pool_ = _pools[operator];
        StoredDelegation storage stored = _delegations[operator][msg.sender];
        Delegation memory synced = stored.load();
        // slither-disable-next-line unused-return: all of it is stored
        pool_.sync(synced, epoch);
        uint104 held = synced.shares;
        if (shares > held) revert StakeUnavailable(held, shares);
        if (shares != held) _requireMinimum(held - shares);
        amount = pool_.remove(synced, uint104(shares), epoch);
        stored.store(synced, true);
        pool_.thawing.thaw(_requests[operator][msg.sender][epoch], uint96(amount));
        emit Undelegated(operator, msg.sender, epoch, amount, shares);
    }

    /// @notice Pays the caller the delegated stake that it asked for in `epoch`, less what was slashed since.
    function withdraw(address operator, uint32 epoch) external nonReentrant returns (uint256 amount) {
        Pool storage pool_ = _pools[operator];
        amount = _release(pool_.thawing, _requests[operator][msg.sender][epoch], epoch);
        _requireCovered(pool_.delegatedLocked, uint256(pool_.delegated) + pool_.thawing.assets);
        emit Withdrawn(operator, msg.sender, epoch, amount, false);
        token.safeTransfer(msg.sender, amount);
    }

    /// @notice Pays the caller its rewards as a delegator.
    /// @dev Not guarded: its books are written before it pays, and whoever comes back finds nothing.
    function claim(address operator) external returns (uint256 amount) {
        StoredDelegation storage stored = _delegations[operator][msg.sender];
        Delegation memory synced = stored.load();
        bool moved = _pools[operator].sync(synced, currentEpoch());
        amount = synced.rewards;
        synced.rewards = 0;
        stored.store(synced, moved);
        emit RewardsClaimed(operator, msg.sender, amount);
        token.safeTransfer(msg.sender, amount);
    }

    /// @notice Takes note of `amount` wei that the distributor has just sent for a pool: they go to the operator's own stake
    /// and to its delegators by stake, less the operator's commission. Stake that came in during this epoch, or the one
    /// before it, has no part.
    function distribute(address operator, uint256 amount) external {
        if (msg.sender != distributor) revert Unauthorized(msg.sender);
        uint256 toDelegators = _pools[operator].distribute(amount.toUint96(), currentEpoch());
        emit RewardsDistributed(operator, amount, toDelegators);
    }

    /// @notice Locks `amount` wei of an operator's pool for a task that has locked nothing there.
    /// @param creator Of the task; delegated stake is locked for a creator that the pool serves only.
    /// @return shared Whether delegators answer for the task, too, and so have a part of what it earns.
    function lock(bytes32 task, address operator, address creator, uint256 amount)
        external
        onlyRegistry
        nonReentrant
        returns (bool shared)
    {
        Pool storage pool_ = _pools[operator];
        (uint256 freeOwn, uint256 freeDelegated) = _free(pool_, operator, creator);
        uint256 most = _lockable(freeOwn, freeDelegated);
        if (amount > most) revert StakeUnavailable(most, amount);
        uint256 own = amount;
        if (freeDelegated != 0) {
            own = Math.ceilDiv(amount * freeOwn, freeOwn + freeDelegated);
            uint256 least = Math.ceilDiv(amount, OWN_DIVISOR);
            if (own < least) own = least;
        }
        uint256 delegated = amount - own;
        _locks[task][operator] = Lock(uint96(own), uint96(delegated));
        pool_.ownLocked += uint96(own);
        if (delegated != 0) pool_.delegatedLocked += uint96(delegated);
        emit Locked(task, operator, own, delegated);
        return delegated != 0;
    }

    /// @notice Releases what is left of a task's lock and returns it, in wei.
    function unlock(bytes32 task, address operator) external onlyRegistry nonReentrant returns (uint256 amount) {
        Lock memory left = _locks[task][operator];
        delete _locks[task][operator];
        Pool storage pool_ = _pools[operator];
        pool_.ownLocked -= left.own;
        if (left.delegated != 0) pool_.delegatedLocked -= left.delegated;
        amount = uint256(left.own) + left.delegated;
        emit Unlocked(task, operator, amount);
    }

    /// @notice Takes up to `amount` wei of what a task has locked; never reverts for want of stake. The registry has it paid
    /// out in the same transaction, once for all slashes of it.
    /// @dev The operator's own part of the lock goes first, active before thawing, then its delegators' part, active and
    /// thawing alike.
    /// @return own Wei of the operator's own taken.
    /// @return delegated Wei by which the delegators' part of the lock fell.
    /// @return left Wei that are left of the lock.
    function slash(bytes32 task, address operator, uint256 amount)
        external
        onlyRegistry
        nonReentrant
        returns (uint256 own, uint256 delegated, uint256 left)
    {
        Lock memory before = _locks[task][operator];
        own = Math.min(amount, before.own);
        delegated = Math.min(amount - own, before.delegated);
        left = before.own + uint256(before.delegated) - own - delegated;
        _locks[task][operator] = Lock(uint96(before.own - own), uint96(before.delegated - delegated));
        Pool storage pool_ = _pools[operator];
        uint256 taken = pool_.loseOwn(own);
        if (delegated != 0) taken += pool_.loseDelegated(delegated);
        _taken += taken;
        emit Slashed(task, operator, own, delegated);
    }

    /// @notice Pays out of what slashes of this transaction took.
    function payOut(address to, uint256 amount) external onlyRegistry nonReentrant {
        uint256 taken = _taken;
        if (amount > taken) revert StakeUnavailable(taken, amount);
        _taken = taken - amount;
        token.safeTransfer(to, amount);
    }

    /// @notice Pays out all that is left of what slashes of this transaction took.
    function payOutRest(address to) external onlyRegistry nonReentrant {
        uint256 rest = _taken;
        _taken = 0;
        if (rest != 0) token.safeTransfer(to, rest);
    }

    /// @notice Number of the running vault epoch.
    function currentEpoch() public view returns (uint32) {
        return uint32(block.timestamp / epochLength); // 2^32 minutes are eight thousand years
    }

    /// @notice An operator's pool.
    function pool(address operator) external view returns (PoolInfo memory) {
        Pool storage pool_ = _pools[operator];
        // slither-disable-next-line unused-return: the rest is not shown
        (uint256 earningShares,,,) = pool_.earningAt(currentEpoch());
        return PoolInfo({
            own: pool_.own,
            delegated: pool_.delegated,
            shares: pool_.shares,
            earningShares: earningShares,
            ownThawing: pool_.ownThawing.assets,
            thawing: pool_.thawing.assets,
            ownLocked: pool_.ownLocked,
            delegatedLocked: pool_.delegatedLocked,
            operatorRewards: pool_.operatorRewards,
            generation: pool_.generation,
            accepts: pool_.accepts
        });
    }

    /// @notice An account's delegation to an operator.
    function delegation(address operator, address account) external view returns (DelegationInfo memory info) {
        Pool storage pool_ = _pools[operator];
        Delegation memory synced = _delegations[operator][account].load();
        // slither-disable-next-line unused-return: nothing is stored
        pool_.sync(synced, currentEpoch());
        info.shares = synced.shares;
        info.earningShares = synced.earning;
        info.assets = StakePools.toAssets(info.shares, pool_.delegated, pool_.shares);
        info.rewards = synced.rewards;
    }

    /// @notice Rewards that a delegator could claim now, in wei.
    function pendingRewards(address operator, address account) external view returns (uint256) {
        Delegation memory synced = _delegations[operator][account].load();
        // slither-disable-next-line unused-return: nothing is stored
        _pools[operator].sync(synced, currentEpoch());
        return synced.rewards;
    }

    /// @notice What a delegator's request of `epoch` is worth now, in wei.
    function thawingOf(address operator, address account, uint32 epoch) external view returns (uint256) {
        return _pools[operator].thawing.worth(_requests[operator][account][epoch]);
    }

    /// @notice What an operator's own request of `epoch` is worth now, in wei.
    function ownThawingOf(address operator, uint32 epoch) external view returns (uint256) {
        return _pools[operator].ownThawing.worth(_ownRequests[operator][epoch]);
    }

    /// @notice The most that a task of `creator` could lock of a pool now, in wei.
    function lockable(address operator, address creator) external view returns (uint256) {
        (uint256 freeOwn, uint256 freeDelegated) = _free(_pools[operator], operator, creator);
        return _lockable(freeOwn, freeDelegated);
    }

    /// @notice What is left of a task's lock on a pool, in wei.
    function lockedStake(bytes32 task, address operator) external view returns (uint256) {
        Lock storage left = _locks[task][operator];
        return uint256(left.own) + left.delegated;
    }

    /// @notice What is left of a task's lock on a pool, by whose it is.
    function lockOf(bytes32 task, address operator) external view returns (Lock memory) {
        return _locks[task][operator];
    }

    /// @notice Epoch from which a pool serves the tasks of a creator; zero: not at all.
    function servedFrom(address operator, address creator) external view returns (uint256) {
        return _servedFrom[operator][creator];
    }

    /// @notice Commission now, the one that was set last, and the epoch from which that one counts, zero for never set.
    function commission(address operator) external view returns (uint256 current, uint256 next, uint256 from) {
        Pool storage pool_ = _pools[operator];
        return (pool_.commissionAt(currentEpoch()), pool_.nextCommission, pool_.commissionEpoch);
    }

    /// @dev Ends a request that has thawed. The sum is taken in 256 bits: no delay wraps round to the past.
    function _release(Thawing storage thawing, Request storage request, uint32 epoch) private returns (uint256) {
        if (request.shares == 0) revert NothingToWithdraw(msg.sender, epoch);
        uint256 thawed = uint256(epoch) + unbondingEpochs + 1;
        if (currentEpoch() < thawed) revert StillThawing(thawed);
        return thawing.release(request);
    }

    /// @dev Active stake that no lock uses: the operator's, and its delegators' if they back tasks of this creator.
    function _free(Pool storage pool_, address operator, address creator)
        private
        view
        returns (uint256 own, uint256 delegated)
    {
        own = Math.saturatingSub(pool_.own, pool_.ownLocked);
        uint256 from = _servedFrom[operator][creator];
        bool serves = from != 0 && from <= currentEpoch();
        if (serves) delegated = Math.saturatingSub(pool_.delegated, pool_.delegatedLocked);
    }

    function _lockable(uint256 freeOwn, uint256 freeDelegated) private pure returns (uint256) {
        return Math.min(freeOwn + freeDelegated, freeOwn * OWN_DIVISOR);
    }

    function _requireCovered(uint256 locked, uint256 remaining) private pure {
        if (remaining < locked) revert StakeLocked(locked, remaining);
    }

    function _requireMinimum(uint256 shares) private view {
        if (shares < minDelegation) revert BelowMinimum(minDelegation, shares);
    }
}
