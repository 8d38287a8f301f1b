// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {AccessControlEnumerable} from "@openzeppelin/contracts/access/extensions/AccessControlEnumerable.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {EmissionController} from "./EmissionController.sol";
import {Head, ISettlement} from "./ISettlement.sol";
import {RewardDistributor} from "./RewardDistributor.sol";
import {StakeVault} from "./StakeVault.sol";
import {Change, Membership, Roster} from "./libraries/Membership.sol";
import {Slash} from "./libraries/Reports.sol";
import {TaskTerms, Terms} from "./libraries/TaskTerms.sol";

/// @title Tasks, their terms and members
/// @notice Creates tasks, whose pools go to the distributor, lets members join with a stake, starts, closes and refunds.
/// Stakes lie in the vault, locked task by task, so that none answers for two; no token lies here. What a committee
/// decided comes in through `EpochSettlement` only; a slash takes at most what is left of a stake, and enriches nobody by
/// more than a tenth of the slashed member's own stake. Who joins or leaves while a task runs does so for committees of
/// `maxUnsettled` + 2 epochs later: no epoch that may be in training already is drawn anew, and nobody knows the seed of the
/// first one that is.
/// A contest is a task with nodes, too: they enter while it runs, with a stake but without slots. No committee draws them, no
/// quorum and no place counts them; they are slashed, paid and released as members are.
/// @dev The token must be a plain ERC-20 (no fee on transfer, supply below 2^128); `FlockToken` is.
contract TaskRegistry is AccessControlEnumerable, ReentrancyGuardTransient {
    using Membership for Roster;
    using SafeERC20 for IERC20;

    /// @notice Life of a task.
    enum Status {
        None,
        Joining,
        Starting,
        Running,
        Closed
    }

    /// @notice A member: its account (also its signing address), locked stake left in wei, slots, and hash-chain tip. A node
    /// has no slots and no tip.
    /// @param delegated The part of the stake that is its delegators', in wei.
    /// @param leaving Whether it asked to leave.
    /// @param leftAt Unix time at which it left, zero while it is in.
    struct Member {
        address account;
        uint128 stake;
        uint128 delegated;
        uint32 slots;
        bytes32 chainTip;
        bool leaving;
        uint40 leftAt;
    }

    /// @notice Everything about a task but its members, gathered from the three contracts.
    /// @dev `numMembers` counts those that left too, and the `numNodes` nodes; `numSlots` is that of the epoch that was settled
    /// last. `numChanges` joined or left while it ran, or asked to; the slots show the first `numApplied` of these changes.
    /// `seedBlock` is the block whose hash makes the first seed, while the task is starting. `nodeStake` is what a node enters
    /// with at least, in wei; zero: the task takes none.
    struct TaskInfo {
        Terms terms;
        address creator;
        Status status;
        bytes32 seed;
        uint64 lastSettled;
        uint64 epochStart;
        uint32 skips;
        uint128 poolLeft;
        uint128 committed;
        uint128 claimed;
        uint128 escrow;
        bytes32 rewardsRoot;
        bytes32 lastReport;
        uint32 numMembers;
        uint32 numSlots;
        uint32 numChanges;
        uint32 numApplied;
        uint64 joinDeadline;
        uint64 seedBlock;
        uint96 nodeStake;
        uint32 numNodes;
    }

    /// @dev A member without its stake, which the vault knows, and with the slot at which its own began.
    struct StoredMember {
        address account;
        uint16 slots;
        uint32 firstSlot;
        uint40 leftAt;
        bool leaving;
        bytes32 chainTip;
    }

    /// @dev What changes of a task, the creator's seed, and what members expect.
    struct State {
        address creator;
        Status status;
        uint32 numMembers;
        uint32 numSlots;
        bytes32 seed;
        bytes32 termsDigest;
        uint64 joinDeadline;
        uint64 seedBlock;
        uint96 nodeStake;
        uint32 numNodes;
    }

    /// @notice May create tasks while creation is not open to everybody.
    bytes32 public constant CREATOR_ROLE = keccak256("CREATOR_ROLE");

    /// @notice Part of own stake slashed that goes to whoever brought it is 1 / `REWARD_DIVISOR`, rounded down.
    uint128 public constant REWARD_DIVISOR = 10;

    /// @dev Longest evidence window.
    uint64 private constant MAX_EVIDENCE_WINDOW = 365 days;

    bytes32 private constant TAG_GENESIS = keccak256("flock_ray/genesis/1");

    /// @notice Token of all pools.
    IERC20 public immutable token;

    /// @notice Bounds the pools of new tasks.
    EmissionController public immutable emission;

    /// @notice Holds the stakes.
    StakeVault public immutable vault;

    /// @notice Holds the pools.
    RewardDistributor public immutable distributor;

    /// @notice Gets what slashes take of delegated stake, what a task's escrow still holds when it closes, and the end share
    /// of a task whose last epoch was not settled: nobody here gains by any of it.
    address public immutable sink;

    /// @notice The only contract that slashes and closes running tasks.
    ISettlement public immutable settlement;

    /// @notice Seconds from the end of a running task, or from the time at which a member left it, in which stakes stay locked
    /// for late evidence; zero: none.
    uint64 public immutable evidenceWindow;

    /// @notice Whether anybody may create tasks, or only accounts with `CREATOR_ROLE`.
    bool public openToAll = true;

    mapping(bytes32 task => Terms) private _terms;
    mapping(bytes32 task => State) private _states;
    mapping(bytes32 task => mapping(uint256 index => StoredMember)) private _members;
    mapping(bytes32 task => mapping(address account => uint256)) private _indexPlusOne;
    mapping(bytes32 task => Roster) private _rosters;

    /// @notice First epoch without a node that asked to leave; zero for all others.
    mapping(bytes32 task => mapping(address node => uint256 epoch)) public leavesFrom;

    /// @notice Creation was opened to everybody, or closed to all but `CREATOR_ROLE`.
    event OpenToAllSet(bool openToAll);
    /// @notice A task was created and its pool escrowed.
    event TaskCreated(bytes32 indexed task, address indexed creator, bytes32 termsHash, uint128 pool);
    /// @notice A member joined with its stake.
    event Joined(
        bytes32 indexed task, address indexed account, uint256 index, uint128 stake, uint32 slots, bytes32 chainTip
    );
    /// @notice A node entered with its stake.
    event Entered(bytes32 indexed task, address indexed account, uint256 index, uint128 stake);
    /// @notice A member asked to join or to leave a running task, from this epoch on; or a node to leave it.
    event ChangeAnnounced(bytes32 indexed task, address indexed account, uint256 index, bool leaves, uint256 epoch);
    /// @notice A member is out; its stake still answers for what it did.
    event Left(bytes32 indexed task, address indexed account);
    /// @notice A task's members are fixed; the hash of this block makes its first seed.
    event SeedBlockFixed(bytes32 indexed task, uint256 number);
    /// @notice A task's first epoch began.
    event Started(bytes32 indexed task, bytes32 seed, uint32 numMembers, uint32 numSlots);
    /// @notice A member's lock fell by `amount`: `delegated` of it was its delegators' and went to the sink, `rewarded` went
    /// to whoever brought the slash, the rest into the task's escrow.
    event Slashed(
        bytes32 indexed task,
        uint64 indexed epoch,
        address indexed account,
        uint128 amount,
        uint128 delegated,
        uint128 rewarded
    );
    /// @notice A task ended and what was left of its pool went back to the creator.
    event TaskClosed(bytes32 indexed task, uint128 refund);
    /// @notice Money that came into a closed task's pool, or was set free in it, went to the creator.
    event Refunded(bytes32 indexed task, uint128 amount);
    /// @notice What was left of a member's stake was released in the vault.
    event Released(bytes32 indexed task, address indexed account, uint128 amount);

    /// @notice The caller may not do this.
    error Unauthorized(address caller);
    /// @notice This creator has created this task before.
    error TaskExists(bytes32 task);
    /// @notice The task has another creator or other terms than the caller expects.
    error UnexpectedTerms(bytes32 termsDigest, bytes32 expected);
    /// @notice The first seed can be taken only after this block.
    error SeedBlockNotReached(uint256 number);
    /// @notice The sink must be an account outside these contracts.
    error InvalidSink(address sink);
    /// @notice The pool is above what the emission schedule grants to the task's epochs.
    error PoolTooLarge(uint256 maximum, uint256 pool);
    /// @notice The task is in another stage of its life.
    error WrongStatus(Status expected, Status got);
    /// @notice Joining has ended.
    error JoinClosed(uint256 joinDeadline);
    /// @notice All places are taken.
    error TaskFull(uint32 maxMembers);
    /// @notice The account is a member already, or was one: an account joins a task once.
    error AlreadyMember(address account);
    /// @notice The member asked to leave already.
    error AlreadyLeaving(address account);
    /// @notice The change would take effect after the last epoch.
    error TooLate(uint256 epoch, uint256 numEpochs);
    /// @notice The account is no member.
    error NotMember(address account);
    /// @notice The stake buys no slot.
    error InsufficientStake(uint256 required, uint256 given);
    /// @notice The stake is less than a node enters with.
    error InsufficientNodeStake(uint256 required, uint256 given);
    /// @notice The task takes no nodes.
    error NoNodes(bytes32 task);
    /// @notice The node takes part until this epoch is settled.
    error StillTakingPart(uint256 epoch);
    /// @notice A hash-chain tip must not be zero.
    error InvalidChainTip();
    /// @notice Too few members, or too few slots for the voters and one proposer, and joining still goes on.
    error NotEnoughMembers(uint32 numMembers, uint32 numSlots);
    /// @notice No member has this index.
    error UnknownMember(uint256 index);
    /// @notice No change has this number.
    error UnknownChange(uint256 number);
    /// @notice No slot has this number.
    error UnknownSlot(uint256 slot);
    /// @notice The member's stake is gone or released already.
    error NothingToRelease(address account);
    /// @notice Stakes stay locked until this time.
    error EvidenceWindowOpen(uint256 until);
    /// @notice The evidence window is too long.
    error InvalidWindow(uint64 maximum, uint64 window);

    modifier onlySettlement() {
        if (msg.sender != address(settlement)) revert Unauthorized(msg.sender);
        _;
    }

    /// @notice Ties the contracts for good: neither a deployer nor an admin can exchange one later.
    /// @param token_ Token of all pools and stakes.
    /// @param emission_ Bounds the pools of new tasks.
    /// @param vault_ Holds the stakes; may be deployed later, at this address.
    /// @param distributor_ Holds the pools; may be deployed later, at this address.
    /// @param settlement_ Slashes and closes; may be deployed later, at this address.
    /// @param evidenceWindow_ Seconds that stakes stay locked after a task's end.
    /// @param sink_ Gets what nobody may gain.
    /// @param admin Decides who may create tasks, and nothing else.
    constructor(
        IERC20 token_,
        EmissionController emission_,
        StakeVault vault_,
        RewardDistributor distributor_,
        ISettlement settlement_,
        uint64 evidenceWindow_,
        address sink_,
        address admin
    ) {
        if (evidenceWindow_ > MAX_EVIDENCE_WINDOW) {
            revert InvalidWindow(MAX_EVIDENCE_WINDOW, evidenceWindow_);
        }
        // slither-disable-next-line incorrect-equality: these are addresses
        bool ours = sink_ == address(0) || sink_ == address(this) || sink_ == address(vault_)
            || sink_ == address(distributor_) || sink_ == address(settlement_) || sink_ == address(token_);
        if (ours) revert InvalidSink(sink_);
        // slither-disable-next-line missing-zero-check: it is checked above
        sink = sink_;
        token = token_;
        emission = emission_;
        vault = vault_;
        evidenceWindow = evidenceWindow_;
        distributor = distributor_;
        settlement = settlement_;
        _grantRole(DEFAULT_ADMIN_ROLE, admin);
    }

    /// @notice Opens creation to everybody, or closes it to all but `CREATOR_ROLE`; only the admin.
    function setOpenToAll(bool openToAll_) external onlyRole(DEFAULT_ADMIN_ROLE) {
        openToAll = openToAll_;
        emit OpenToAllSet(openToAll_);
    }

    /// @notice Creates a task and escrows its pool from the caller, who must have approved it to this contract.
    /// @param terms Terms, fixed from now on. The pool is at most numEpochs * `EmissionController.epochCap()` of now.
    /// @param seed First seed, when `terms.fixedGenesis`; tells apart tasks of one creator under the same terms.
    /// @return task Its identifier, which follows from the caller, the terms and the seed (`TaskTerms.identifier`).
    function createTask(Terms calldata terms, bytes32 seed) external nonReentrant returns (bytes32 task) {
        return _create(terms, seed, TaskTerms.digest(msg.sender, terms), 0);
    }

    /// @notice Creates a contest: a task that nodes may enter while it runs.
    /// @param terms As in `createTask`.
    /// @param seed As in `createTask`.
    /// @param nodeStake Least stake of a node in wei, fixed from now on; not zero.
    /// @return task Its identifier, which follows from the caller, the terms, the node's stake and the seed.
    function createContest(Terms calldata terms, bytes32 seed, uint96 nodeStake)
        external
        nonReentrant
        returns (bytes32 task)
    {
        if (nodeStake == 0) revert TaskTerms.InvalidTerms("nodeStake");
        bytes32 termsDigest = TaskTerms.contestDigest(TaskTerms.digest(msg.sender, terms), nodeStake);
        return _create(terms, seed, termsDigest, nodeStake);
    }

    /// @notice Joins a task with a stake: locks so much of what the caller has in the vault, and of what its delegators have
    /// there if its pool serves the task's creator. A caller whose delegators answer for the task is paid for it through its
    /// pool, for good (`RewardDistributor.claimToPool`).
    /// While the task runs, its committees draw on the new slots from `maxUnsettled` + 2 epochs after the next one on.
    /// @param task Task that is joining or running.
    /// @param amount Stake in wei; every whole `minStake` of it is a slot, up to `maxSlots`.
    /// @param chainTip Tip of the member's hash chain, whose preimages it reveals epoch by epoch.
    /// @param expected keccak256(abi.encode(creator, terms)) of the task that the caller means to join; of a contest
    /// keccak256(abi.encode(that, nodeStake)).
    function join(bytes32 task, uint128 amount, bytes32 chainTip, bytes32 expected) external nonReentrant {
        State storage state = _states[task];
        Terms storage terms = _terms[task];
        if (state.status != Status.Running) {
            _requireStatus(task, Status.Joining);
            if (block.timestamp >= state.joinDeadline) revert JoinClosed(state.joinDeadline);
        }
        _requireExpected(state, expected);
        uint32 slots = _join(task, state, terms, amount, chainTip);
        emit Joined(task, msg.sender, state.numMembers - 1, amount, slots, chainTip);
        _lock(task, state, amount);
    }

    /// @notice Enters a running contest as a node, at once: with a stake, locked and paid as a member's is, but without slots.
    /// An account that is a member, or was one, cannot enter, and a node cannot join.
    /// @param task Contest that runs.
    /// @param amount Stake in wei, at least the contest's `nodeStake`.
    /// @param expected As in `join`.
    function enter(bytes32 task, uint128 amount, bytes32 expected) external nonReentrant {
        State storage state = _requireStatus(task, Status.Running);
        _requireExpected(state, expected);
        uint96 least = state.nodeStake;
        if (least == 0) revert NoNodes(task);
        _requireNew(task);
        if (amount < least) revert InsufficientNodeStake(least, amount);
        state.numNodes += 1;
        uint32 index = _admit(task, state, 0, 0, 0);
        emit Entered(task, msg.sender, index, amount);
        _lock(task, state, amount);
    }

    /// @notice Leaves a task that has not started: the stake is free at once.
    function cancelJoin(bytes32 task) external nonReentrant {
        State storage state = _requireStatus(task, Status.Joining);
        uint256 index = indexOf(task, msg.sender);
        StoredMember storage member = _memberAt(task, index);
        if (member.leaving) revert AlreadyLeaving(msg.sender);
        member.leaving = true;
        Roster storage roster = _rosters[task];
        uint32 number = roster.announced;
        roster.record(Change(uint32(index), member.slots, 0, true));
        _apply(task, roster, roster.changes[number], state.numSlots);
        state.numSlots -= member.slots;
        emit Released(task, msg.sender, uint128(vault.unlock(task, msg.sender)));
    }

    /// @notice Asks to leave a running task. The caller serves in committees for another `maxUnsettled` + 2 epochs, and
    /// its stake answers for an evidence window after that. What it earned stays its own. A node has no slots to give up:
    /// nothing waits for a settlement, and `release` lets it go when the epoch is over from which its leave counts.
    function resign(bytes32 task) external {
        _requireStatus(task, Status.Running);
        uint256 index = indexOf(task, msg.sender);
        StoredMember storage member = _memberAt(task, index);
        if (member.leaving) revert AlreadyLeaving(msg.sender);
        member.leaving = true;
        (uint256 epoch, uint256 numEpochs) = _nextChange(task);
        if (epoch > numEpochs) revert TooLate(epoch, numEpochs);
        if (member.slots != 0) {
            // slither-disable-next-line unused-return: who leaves gets no slot
            _announce(task, msg.sender, Change(uint32(index), member.slots, uint32(epoch), true));
        } else {
            leavesFrom[task][msg.sender] = epoch;
            emit ChangeAnnounced(task, msg.sender, index, true, epoch);
        }
    }

    /// @notice Applies the changes that are due to the slots, before the committee of the epoch to settle is drawn.
    /// @param task Running task.
    /// @param epoch Epoch that is settled now.
    /// @return numSlots Slots of this epoch.
    /// @return nextSlots Slots of the next epoch.
    /// @return waiting Whether changes wait for a later epoch.
    function applyChanges(bytes32 task, uint256 epoch)
        external
        onlySettlement
        returns (uint32 numSlots, uint32 nextSlots, bool waiting)
    {
        Roster storage roster = _rosters[task];
        State storage state = _states[task];
        numSlots = state.numSlots;
        (uint32 end, uint32 then) = roster.due(epoch, numSlots);
        for (uint32 number = roster.applied; number < end; ++number) {
            Change storage change = roster.changes[number];
            _apply(task, roster, change, numSlots);
            numSlots = change.leaves ? numSlots - change.slots : numSlots + change.slots;
        }
        (roster.applied, state.numSlots) = (end, then);
        // slither-disable-next-line unused-return: the number of these changes does not matter yet
        (, nextSlots) = roster.due(epoch + 1, then);
        waiting = end != roster.announced;
    }

    /// @notice Fixes the members, and the block whose hash makes the first seed: the next one, which nobody knows yet. The
    /// creator may at any time, anybody once the task is full or joining has ended. With `fixedGenesis` the first epoch
    /// begins at once. A task that joining left with too few members or slots closes instead: pool and stakes go back.
    function start(bytes32 task) external nonReentrant {
        State storage state = _requireStatus(task, Status.Joining);
        Terms storage terms = _terms[task];
        bool joinEnded = block.timestamp >= state.joinDeadline;
        uint32 members = state.numMembers - _rosters[task].left; // no node has entered yet
        bool full = members == terms.maxMembers;
        if (!joinEnded && !full && msg.sender != state.creator) revert Unauthorized(msg.sender);
        if (members < terms.minMembers || state.numSlots <= terms.numVoters) {
            if (!joinEnded) revert NotEnoughMembers(members, state.numSlots);
            _close(task, state, false);
        } else if (terms.fixedGenesis) {
            _begin(task, state, terms, state.seed);
        } else {
            state.status = Status.Starting;
            _fixSeedBlock(task, state);
        }
    }

    /// @notice Begins the first epoch of a task whose members are fixed. Anybody may, from the second block after `start` on.
    /// If nobody did for 256 blocks, the block's hash is gone, and the next block takes its place.
    function open(bytes32 task) external nonReentrant {
        State storage state = _requireStatus(task, Status.Starting);
        uint256 number = state.seedBlock;
        if (block.number <= number) revert SeedBlockNotReached(number);
        bytes32 blockHash = blockhash(number);
        // slither-disable-next-line incorrect-equality: zero is for a block that is too old
        if (blockHash == 0) _fixSeedBlock(task, state);
        else _begin(task, state, _terms[task], keccak256(abi.encode(TAG_GENESIS, task, blockHash)));
    }

    /// @notice Closes a running task whose last epoch is over.
    function close(bytes32 task) external onlySettlement {
        _close(task, _requireStatus(task, Status.Running), true);
    }

    /// @notice Pays the creator what a correction has set free in a closed task's pool. Anybody may call.
    function refund(bytes32 task) external {
        State storage state = _requireStatus(task, Status.Closed);
        emit Refunded(task, distributor.refund(task, state.creator, sink, false));
    }

    /// @notice Releases what is left of a member's stake in the vault: from `releasableAt` on, or when the evidence window is
    /// over after it left. Anybody may call. Of a node that asked to leave a task that still runs the first call, when the
    /// epoch is over from which its leave counts, only notes that it left, unless there is no window.
    function release(bytes32 task, address account) external nonReentrant {
        uint256 leftAt = _memberAt(task, indexOf(task, account)).leftAt;
        // slither-disable-next-line incorrect-equality: zero is for never
        if (leftAt == 0 && leavesFrom[task][account] != 0 && _states[task].status == Status.Running) {
            leftAt = _letGo(task, account);
            if (evidenceWindow != 0) return;
        }
        // slither-disable-next-line incorrect-equality: zero is for never
        if (leftAt == 0) _requireStatus(task, Status.Closed);
        // slither-disable-next-line incorrect-equality: zero is for never
        uint256 from = leftAt == 0 ? releasableAt(task) : leftAt + evidenceWindow;
        if (block.timestamp < from) revert EvidenceWindowOpen(from);
        uint256 amount = vault.unlock(task, account);
        if (amount == 0) revert NothingToRelease(account);
        emit Released(task, account, uint128(amount));
    }

    /// @notice Takes stake, each time at most what is left of it. Of own stake a tenth goes to `rewarded` and the rest into the
    /// task's escrow, or to the sink when the task is closed; what delegators lose goes to the sink. A member that keeps less
    /// than half of what its slots cost is made to leave, unless that would count after the last epoch.
    /// @param task Running task, or a closed one whose stakes are not released.
    /// @param epoch Epoch of the offence.
    /// @param slashes Members and amounts.
    /// @param rewarded Gets a tenth; zero: nobody.
    function slash(bytes32 task, uint64 epoch, Slash[] calldata slashes, address rewarded)
        external
        onlySettlement
        nonReentrant
    {
        // slither-disable-next-line uninitialized-local: from zero up
        uint128 own;
        // slither-disable-next-line uninitialized-local: from zero up
        uint128 toRewarded;
        for (uint256 i; i < slashes.length; ++i) {
            (uint128 taken, uint128 reward) = _slash(task, epoch, slashes[i], rewarded != address(0));
            own += taken;
            toRewarded += reward;
        }
        if (toRewarded != 0) vault.payOut(rewarded, toRewarded);
        uint128 escrowed = own - toRewarded;
        if (escrowed != 0 && _states[task].status != Status.Closed) {
            distributor.depositEscrow(task, escrowed);
            vault.payOut(address(distributor), escrowed);
        }
        vault.payOutRest(sink);
    }

    /// @notice Everything about a task but its members; all zero for an unknown one.
    function taskInfo(bytes32 task) external view returns (TaskInfo memory) {
        State storage state = _states[task];
        Head memory head = settlement.headOf(task);
        RewardDistributor.Account memory money = distributor.accountOf(task);
        return TaskInfo({
            terms: _terms[task],
            creator: state.creator,
            status: state.status,
            seed: head.seed == 0 && _terms[task].fixedGenesis ? state.seed : head.seed,
            lastSettled: head.clock.lastSettled,
            epochStart: head.clock.epochStart,
            skips: head.clock.skips,
            poolLeft: money.deposited - money.committed,
            committed: money.committed,
            claimed: money.claimed,
            escrow: money.escrow,
            rewardsRoot: money.root,
            lastReport: head.lastReport,
            numMembers: state.numMembers,
            numSlots: state.numSlots,
            numChanges: _rosters[task].announced,
            numApplied: _rosters[task].applied,
            joinDeadline: state.joinDeadline,
            seedBlock: state.seedBlock,
            nodeStake: state.nodeStake,
            numNodes: state.numNodes
        });
    }

    /// @notice Terms of a task.
    function termsOf(bytes32 task) external view returns (Terms memory) {
        return _terms[task];
    }

    /// @notice Member with the given index, in order of joining.
    function memberAt(bytes32 task, uint256 index) public view returns (Member memory) {
        StoredMember storage member = _memberAt(task, index);
        address account = member.account;
        // slither-disable-next-line calls-loop: our own vault
        StakeVault.Lock memory lock = vault.lockOf(task, account);
        uint128 stake = uint128(lock.own) + lock.delegated;
        return Member(account, stake, lock.delegated, member.slots, member.chainTip, member.leaving, member.leftAt);
    }

    /// @notice Members with the indices from `from` on, up to the one before `to`, in order of joining.
    function membersOf(bytes32 task, uint256 from, uint256 to) external view returns (Member[] memory page) {
        page = new Member[](to - from);
        for (uint256 i; i < page.length; ++i) {
            page[i] = memberAt(task, from + i);
        }
    }

    /// @notice Unix time from which the stakes of a closed task may be released; zero if it never ran.
    function releasableAt(bytes32 task) public view returns (uint256) {
        uint256 end = settlement.headOf(task).clock.epochStart; // a closed task's last epoch ended it
        return end == 0 ? 0 : end + evidenceWindow;
    }

    /// @notice Index of a member's account.
    function indexOf(bytes32 task, address account) public view returns (uint256) {
        uint256 indexPlusOne = _indexPlusOne[task][account];
        if (indexPlusOne == 0) revert NotMember(account);
        return indexPlusOne - 1;
    }

    /// @notice Changes with the numbers from `from` on, up to the one before `to`, in the order in which they were asked for.
    function changesOf(bytes32 task, uint256 from, uint256 to) external view returns (Change[] memory page) {
        Roster storage roster = _rosters[task];
        if (to > roster.announced) revert UnknownChange(to - 1);
        page = new Change[](to - from);
        for (uint256 i; i < page.length; ++i) {
            page[i] = roster.changes[from + i];
        }
    }

    /// @notice Changes so far, those that wait included.
    function numChanges(bytes32 task) external view returns (uint256) {
        return _rosters[task].announced;
    }

    /// @notice How many changes the settlement of an epoch applies if it is the next one, and the slots after them.
    function dueAt(bytes32 task, uint256 epoch) external view returns (uint256 changes, uint256 numSlots) {
        Roster storage roster = _rosters[task];
        (changes, numSlots) = roster.due(epoch, _states[task].numSlots);
        changes -= roster.applied;
    }

    /// @notice Accounts that own the given slots, in their order, in the epoch that was settled last.
    function slotOwners(bytes32 task, uint256[] calldata slots) external view returns (address[] memory) {
        mapping(uint256 slot => uint256) storage holdings = _rosters[task].slots;
        bytes4 unknown = UnknownSlot.selector;
        assembly ("memory-safe") {
            mstore(32, holdings.slot)
            let answer := mload(0x40)
            mstore(answer, 32)
            mstore(add(answer, 32), slots.length)
            let at := add(answer, 64)
            let end := add(at, shl(5, slots.length))
            for { let from := slots.offset } lt(at, end) { at := add(at, 32) } {
                let slot := calldataload(from)
                mstore(0, slot)
                let owner := shr(96, sload(keccak256(0, 64)))
                if iszero(owner) {
                    mstore(0, unknown)
                    mstore(4, slot)
                    revert(0, 36)
                }
                mstore(at, owner)
                from := add(from, 32)
            }
            return(answer, sub(end, answer))
        }
    }

    function _requireStatus(bytes32 task, Status expected) private view returns (State storage state) {
        state = _states[task];
        if (state.status != expected) revert WrongStatus(expected, state.status);
    }

    function _requireExpected(State storage state, bytes32 expected) private view {
        if (expected != state.termsDigest) revert UnexpectedTerms(state.termsDigest, expected);
    }

    function _requireNew(bytes32 task) private view {
        if (_indexPlusOne[task][msg.sender] != 0) revert AlreadyMember(msg.sender);
    }

    /// @dev Creates a task that takes nodes, or none if `nodeStake` is zero.
    function _create(Terms calldata terms, bytes32 seed, bytes32 termsDigest, uint96 nodeStake)
        private
        returns (bytes32 task)
    {
        if (!openToAll) _checkRole(CREATOR_ROLE);
        TaskTerms.check(terms, seed, settlement.grace());
        task = TaskTerms.identifier(termsDigest, seed);
        State storage state = _states[task];
        if (state.status != Status.None) revert TaskExists(task);
        uint256 maximum = terms.numEpochs * emission.epochCap();
        if (terms.pool > maximum) revert PoolTooLarge(maximum, terms.pool);

        _terms[task] = terms;
        state.creator = msg.sender;
        state.status = Status.Joining;
        state.seed = seed;
        state.termsDigest = termsDigest;
        state.joinDeadline = uint64(block.timestamp) + terms.joinWindow;
        state.nodeStake = nodeStake;
        emit TaskCreated(task, msg.sender, terms.termsHash, terms.pool);

        uint256 reserve = uint256(terms.pool) * terms.endShareBps / TaskTerms.BPS;
        distributor.deposit(task, terms.pool, uint128(reserve));
        token.safeTransferFrom(msg.sender, address(distributor), terms.pool);
    }

    /// @dev Gives the caller the next index.
    function _admit(bytes32 task, State storage state, uint32 slots, uint32 firstSlot, bytes32 chainTip)
        private
        returns (uint32 index)
    {
        index = state.numMembers;
        _members[task][index] = StoredMember(msg.sender, uint16(slots), firstSlot, 0, false, chainTip);
        _indexPlusOne[task][msg.sender] = uint256(index) + 1;
        state.numMembers = index + 1;
    }

    /// @dev Locks stake of the caller's pool. Delegators that answer for the task have their part of what it earns: fixed
    /// here, so that the operator cannot choose later.
    function _lock(bytes32 task, State storage state, uint128 amount) private {
        bool shared = vault.lock(task, msg.sender, state.creator, amount);
        if (shared) distributor.payToPool(task, msg.sender);
    }

    /// @dev Gives the caller the next index and its slots.
    function _join(bytes32 task, State storage state, Terms storage terms, uint128 amount, bytes32 chainTip)
        private
        returns (uint32 slots)
    {
        Roster storage roster = _rosters[task];
        bool running = state.status == Status.Running;
        uint32 index = state.numMembers;
        if (index - roster.left - state.numNodes == terms.maxMembers) revert TaskFull(terms.maxMembers);
        _requireNew(task);
        if (amount < terms.minStake) revert InsufficientStake(terms.minStake, amount);
        if (chainTip == 0) revert InvalidChainTip();

        uint128 affordable = amount / terms.minStake;
        slots = affordable < terms.maxSlots ? uint32(affordable) : terms.maxSlots;
        uint32 firstSlot = state.numSlots;
        if (running) {
            (uint256 epoch, uint256 numEpochs) = _nextChange(task);
            if (epoch > numEpochs) revert TooLate(epoch, numEpochs);
            // slither-disable-next-line reentrancy-no-eth,reentrancy-benign: our own contract, which calls nobody
            firstSlot = _announce(task, msg.sender, Change(index, slots, uint32(epoch), false));
        } else {
            roster.fill(msg.sender, firstSlot, slots);
            state.numSlots = firstSlot + slots;
            if (roster.announced != 0) roster.record(Change(index, slots, 0, false));
        }
        // slither-disable-next-line unused-return: it is known
        _admit(task, state, slots, firstSlot, chainTip);
    }

    /// @dev Notes that a node left, when the epoch is over from which its leave counts.
    function _letGo(bytes32 task, address node) private returns (uint256 leftAt) {
        uint256 epoch = leavesFrom[task][node];
        if (settlement.headOf(task).clock.lastSettled < epoch) revert StillTakingPart(epoch);
        leftAt = block.timestamp;
        _memberAt(task, indexOf(task, node)).leftAt = uint40(leftAt);
        emit Left(task, node);
    }

    /// @dev First epoch for which a change counts that is asked for now: nobody can be training it yet, nor know its seed.
    /// The epochs up to `maxUnsettled` + 1 after the last settled one may be over; their reveals give the seed of the next.
    function _nextChange(bytes32 task) private view returns (uint256 epoch, uint256 numEpochs) {
        Terms storage terms = _terms[task];
        numEpochs = terms.numEpochs;
        // slither-disable-next-line calls-loop: our own settlement, at most MAX_SLASHES times
        epoch = settlement.headOf(task).clock.lastSettled + uint256(terms.maxUnsettled) + 3;
    }

    /// @dev Queues a change.
    function _announce(bytes32 task, address account, Change memory change) private returns (uint32 firstSlot) {
        emit ChangeAnnounced(task, account, change.member, change.leaves, change.epoch);
        firstSlot = _rosters[task].announce(change, _states[task].numSlots);
        // slither-disable-next-line calls-loop: our own settlement, at most MAX_SLASHES times
        settlement.expectChange(task);
    }

    /// @dev Slashes one member. Returns what it lost of its own, and the part of it that is a reward.
    function _slash(bytes32 task, uint64 epoch, Slash calldata asked, bool rewards)
        private
        returns (uint128 own, uint128 reward)
    {
        address account = _memberAt(task, asked.member).account;
        // slither-disable-next-line calls-loop,reentrancy-no-eth: our own vault, which calls nobody; at most MAX_SLASHES times
        (uint256 taken, uint256 delegated, uint256 left) = vault.slash(task, account, asked.amount);
        own = uint128(taken);
        if (rewards) reward = own / REWARD_DIVISOR;
        emit Slashed(task, epoch, account, own + uint128(delegated), uint128(delegated), reward);
        // slither-disable-next-line incorrect-equality: an enumeration
        if (_states[task].status == Status.Running) _removeBelowHalf(task, asked.member, left);
    }

    /// @dev Queues the leave of a member whose lock is below half of what its slots cost, if it still counts.
    function _removeBelowHalf(bytes32 task, uint32 index, uint256 left) private {
        StoredMember storage member = _members[task][index];
        (uint256 epoch, uint256 numEpochs) = _nextChange(task);
        bool stays = 2 * left >= uint256(member.slots) * _terms[task].minStake;
        if (stays || member.leaving || epoch > numEpochs) return;
        member.leaving = true;
        // slither-disable-next-line unused-return: who leaves gets no slot
        _announce(task, member.account, Change(index, member.slots, uint32(epoch), true));
    }

    function _fixSeedBlock(bytes32 task, State storage state) private {
        uint256 number = block.number + 1;
        state.seedBlock = uint64(number);
        emit SeedBlockFixed(task, number);
    }

    function _begin(bytes32 task, State storage state, Terms storage terms, bytes32 seed) private {
        (uint32 numMembers, uint32 numSlots) = (state.numMembers, state.numSlots);
        state.status = Status.Running;
        emit Started(task, seed, numMembers - _rosters[task].left, numSlots);
        settlement.open(task, seed, terms.numEpochs, numSlots, terms.numVoters);
    }

    /// @dev Applies one change to the slots, of which there are `numSlots`.
    function _apply(bytes32 task, Roster storage roster, Change storage change, uint32 numSlots) private {
        StoredMember storage member = _members[task][change.member];
        address account = member.account;
        if (!change.leaves) return roster.fill(account, numSlots, change.slots);
        member.leftAt = uint40(block.timestamp);
        roster.left += 1;
        emit Left(task, account);
        roster.vacate(account, member.firstSlot, change.slots, numSlots);
    }

    function _memberAt(bytes32 task, uint256 index) private view returns (StoredMember storage) {
        if (index >= _states[task].numMembers) revert UnknownMember(index);
        return _members[task][index];
    }

    /// @param started Whether the task ran: then the end share that its last epoch did not commit is nobody's.
    function _close(bytes32 task, State storage state, bool started) private {
        state.status = Status.Closed;
        emit TaskClosed(task, distributor.refund(task, state.creator, sink, started));
    }
}
