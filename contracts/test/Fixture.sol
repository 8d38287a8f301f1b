// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Base} from "./Base.sol";
import {Merkle} from "./Merkle.sol";
import {EmissionController, Schedule} from "../src/EmissionController.sol";
import {EpochSettlement} from "../src/EpochSettlement.sol";
import {FlockToken} from "../src/FlockToken.sol";
import {RewardDistributor} from "../src/RewardDistributor.sol";
import {StakeVault} from "../src/StakeVault.sol";
import {TaskRegistry} from "../src/TaskRegistry.sol";
import {Report, Slash} from "../src/libraries/Reports.sol";
import {Terms} from "../src/libraries/TaskTerms.sol";

/// @notice The six contracts, eight members with known keys and all they own in the vault, and helpers that act for them.
abstract contract Fixture is Base {
    bytes32 internal constant SEED = keccak256("genesis");
    uint128 internal constant POOL = 3000 ether;
    uint128 internal constant STAKE = 100 ether;
    uint32 internal constant MEMBERS = 8;
    uint32 internal constant VOTERS = 4;
    uint32 internal constant EPOCHS = 3;
    uint64 internal constant DEADLINE = 600;
    uint256 internal constant WALLET = 10_000 ether;

    address internal constant CREATOR = address(0xC0);
    address internal constant RELAYER = address(0xE0);
    address internal constant STRANGER = address(0x50);
    address internal constant ADMIN = address(0xAD);
    address internal constant GUARDIAN = address(0x6A);
    address internal constant TREASURY = address(0x7E);
    address internal constant SINK = address(0x51);

    uint256 internal constant SUPPLY = 1_000_000 ether;
    uint128 internal constant DAILY = 1000 ether;
    uint16 internal constant ABSENCE_BPS = 100;
    uint64 internal constant RESPONSE_WINDOW = 3600;
    uint64 internal constant EVIDENCE_WINDOW = 7200;
    uint96 internal constant MINIMUM = 1e15;
    uint32 internal constant VAULT_EPOCH = 1 days;
    uint32 internal constant UNBONDING = 7;

    FlockToken internal token;
    EmissionController internal emission;
    TaskRegistry internal tasks;
    RewardDistributor internal distributor;
    EpochSettlement internal settlement;
    StakeVault internal vault;

    /// @notice The task that was created last with the usual seed.
    bytes32 internal TASK;

    address[] internal members;
    address[] internal delegators;
    uint256 internal dust; // most that divisions may have left in the vault
    uint256 internal ahead; // most that exhausted generations took besides what they were asked for
    mapping(address account => uint256) internal keys;
    mapping(bytes32 task => bytes32) internal digests; // what its members expect

    /// @notice Forge calls this before each test.
    function setUp() public virtual {
        vm.warp(1_000_000);
        vm.roll(100);
        _deploy(_activationDelay());
        for (uint256 i; i < MEMBERS; ++i) {
            address member = vm.addr(i + 1);
            members.push(member);
            keys[member] = i + 1;
            _enrol(member, WALLET);
        }
        token.transfer(CREATOR, 100_000 ether);
        vm.prank(CREATOR);
        token.approve(address(tasks), type(uint256).max);
    }

    /// @dev Seconds until a settled root pays.
    function _activationDelay() internal pure virtual returns (uint64) {
        return 0;
    }

    /// @dev Seconds between two calls that abandon an epoch.
    function _grace() internal pure virtual returns (uint64) {
        return 0;
    }

    /// @dev Wei that the first days release.
    function _daily() internal pure virtual returns (uint128) {
        return DAILY;
    }

    /// @dev Deploys and ties everything; the epochs of a new task may commit 10,000 tokens each.
    function _deploy(uint64 activationDelay) internal {
        Schedule memory schedule = Schedule(TREASURY, _daily(), 1000, 30, uint64(block.timestamp), 10);
        token = new FlockToken(SUPPLY);
        emission = new EmissionController(token, schedule);
        token.setMinter(address(emission));
        uint256 nonce = vm.getNonce(address(this));
        distributor = RewardDistributor(vm.computeCreateAddress(address(this), nonce + 1));
        settlement = EpochSettlement(vm.computeCreateAddress(address(this), nonce + 2));
        vault = StakeVault(vm.computeCreateAddress(address(this), nonce + 3));
        tasks = new TaskRegistry(token, emission, vault, distributor, settlement, EVIDENCE_WINDOW, SINK, ADMIN);
        new RewardDistributor(token, address(tasks), address(settlement), vault, activationDelay, ADMIN);
        new EpochSettlement(tasks, distributor, ABSENCE_BPS, RESPONSE_WINDOW, _grace());
        StakeVault.Settings memory settings = StakeVault.Settings(VAULT_EPOCH, UNBONDING, UNBONDING + 1, MINIMUM);
        new StakeVault(token, address(tasks), address(distributor), settings);
        bytes32 role = distributor.GUARDIAN_ROLE();
        vm.prank(ADMIN);
        distributor.grantRole(role, GUARDIAN);
    }

    /// @dev Gives an account tokens and puts all of them into the vault as its own stake.
    function _enrol(address account, uint256 amount) internal {
        _give(account, amount);
        vm.prank(account);
        vault.stake(amount);
    }

    /// @dev Gives an account tokens that the vault may take.
    function _give(address account, uint256 amount) internal {
        token.transfer(account, amount);
        vm.prank(account);
        token.approve(address(vault), type(uint256).max);
    }

    /// @dev An account delegates to an operator, which accepts it.
    function _delegate(address operator, address account, uint256 amount) internal {
        vm.prank(operator);
        vault.setAcceptance(true);
        _give(account, amount);
        vm.prank(account);
        vault.delegate(operator, amount);
        delegators.push(account);
    }

    /// @dev Past the evidence window of a task that is closed now.
    function _passWindow() internal {
        vm.warp(block.timestamp + EVIDENCE_WINDOW);
    }

    /// @dev Tokens that an account owns: in its wallet, and its own stake.
    function _wealth(address account) internal view returns (uint256) {
        return token.balanceOf(account) + vault.pool(account).own;
    }

    function _terms() internal view returns (Terms memory) {
        return Terms({
            termsHash: keccak256("terms"),
            modelHash: keccak256("model 0"),
            targetSetHash: keccak256("target set"),
            pool: POOL,
            minStake: STAKE,
            maxSlots: 4,
            numVoters: VOTERS,
            numProposers: 4,
            minMembers: 5,
            maxMembers: MEMBERS,
            numEpochs: EPOCHS,
            maxUnsettled: 1,
            maxSkips: 2,
            endShareBps: 0,
            epochDeadline: DEADLINE,
            joinWindow: 1000,
            fixedGenesis: true
        });
    }

    function _create(Terms memory terms) internal {
        TASK = _create(SEED, terms);
    }

    /// @dev Another task under the same terms has another seed.
    function _create(bytes32 seed, Terms memory terms) internal returns (bytes32 task) {
        vm.prank(CREATOR);
        task = tasks.createTask(terms, seed);
        digests[task] = keccak256(abi.encode(CREATOR, terms));
    }

    function _join(bytes32 task, address member, uint128 amount) internal {
        vm.prank(member);
        tasks.join(task, amount, keccak256(abi.encode("tip", member)), digests[task]);
    }

    function _run(Terms memory terms) internal {
        TASK = _run(SEED, terms);
    }

    /// @dev A running task of all members with one slot each.
    function _run(bytes32 seed, Terms memory terms) internal returns (bytes32 task) {
        task = _create(seed, terms);
        for (uint256 i; i < members.length; ++i) {
            _join(task, members[i], terms.minStake);
        }
        tasks.start(task);
    }

    /// @dev A valid report of the task's next epoch that pays nobody.
    function _report(bytes32 task) internal view returns (Report memory) {
        TaskRegistry.TaskInfo memory info = tasks.taskInfo(task);
        uint64 epoch = info.lastSettled + 1;
        return Report({
            task: task,
            epoch: epoch,
            previousReport: info.lastReport,
            seed: info.seed,
            revealsDigest: keccak256(abi.encode("reveals", task, epoch)),
            rewardsRoot: info.rewardsRoot,
            rewardsTotal: info.committed,
            slashes: new Slash[](0),
            modelHash: keccak256(abi.encode("model", epoch)),
            recordHash: keccak256(abi.encode("record", epoch)),
            relayer: RELAYER
        });
    }

    function _slashes(uint32 member, uint128 amount) internal pure returns (Slash[] memory slashes) {
        slashes = new Slash[](1);
        slashes[0] = Slash(member, amount);
    }

    /// @dev Signatures of the seats' owners, for each set bit, ascending.
    function _sign(Report memory report, uint256 seats) internal view virtual returns (bytes memory signatures) {
        address[] memory voters = settlement.committee(report.task);
        bytes32 digest = settlement.reportDigest(report);
        for (uint256 seat; seat < voters.length; ++seat) {
            if ((seats >> seat) & 1 == 1) {
                signatures = bytes.concat(signatures, _signature(keys[voters[seat]], digest));
            }
        }
    }

    /// @dev EIP-2098 signature of an account whose key is known.
    function _signedBy(address account, bytes32 digest) internal view returns (bytes memory) {
        return _signature(keys[account], digest);
    }

    function _signature(uint256 key, bytes32 digest) internal pure returns (bytes memory) {
        (bytes32 r, bytes32 vs) = vm.signCompact(key, digest);
        return bytes.concat(r, vs);
    }

    /// @dev Settles with the signatures of the first quorum of seats; anybody may send.
    function _settle(Report memory report) internal virtual {
        uint256 seats = (1 << _quorum(tasks.taskInfo(report.task).terms.numVoters)) - 1;
        bytes memory signatures = _sign(report, seats);
        vm.prank(STRANGER);
        settlement.settle(report, seats, signatures);
    }

    function _quorum(uint256 voters) internal pure returns (uint256) {
        return 2 * voters / 3 + 1;
    }

    function _leaf(bytes32 task, address account, uint256 cumulative) internal view returns (bytes32) {
        return
            keccak256(
                bytes.concat(keccak256(abi.encode(block.chainid, address(distributor), task, account, cumulative)))
            );
    }

    /// @dev Tree over all members' cumulative rewards.
    function _tree(bytes32 task, uint256[] memory cumulative) internal view returns (bytes32[] memory) {
        bytes32[] memory leaves = new bytes32[](cumulative.length);
        for (uint256 i; i < cumulative.length; ++i) {
            leaves[i] = _leaf(task, members[i], cumulative[i]);
        }
        return Merkle.build(leaves);
    }

    function _stakes(bytes32 task) internal view returns (uint256 sum) {
        uint256 count = tasks.taskInfo(task).numMembers;
        for (uint256 i; i < count; ++i) {
            sum += tasks.memberAt(task, i).stake;
        }
    }

    /// @dev What the distributor owes for a task.
    function _owed(bytes32 task) internal view returns (uint256) {
        TaskRegistry.TaskInfo memory info = tasks.taskInfo(task);
        return uint256(info.poolLeft) + info.committed - info.claimed + info.escrow;
    }

    /// @dev The contracts hold exactly what they owe for these tasks.
    function _checkHoldings(bytes32 one, bytes32 other) internal view {
        uint256 inVault;
        for (uint256 i; i < members.length; ++i) {
            StakeVault.PoolInfo memory info = vault.pool(members[i]);
            StakeVault.Lock memory lock = vault.lockOf(one, members[i]);
            StakeVault.Lock memory second = vault.lockOf(other, members[i]);
            vm.assertEq(info.ownLocked, uint256(lock.own) + second.own);
            vm.assertEq(info.delegatedLocked, uint256(lock.delegated) + second.delegated);
            vm.assertLe(info.ownLocked, info.own + info.ownThawing, "no own stake answers twice");
            vm.assertLe(info.delegatedLocked, info.delegated + info.thawing + ahead, "nor delegated stake");
            inVault += info.own + info.delegated + info.ownThawing + info.thawing + info.operatorRewards;
            for (uint256 j; j < delegators.length; ++j) {
                inVault += vault.pendingRewards(members[i], delegators[j]);
            }
        }
        vm.assertEq(token.balanceOf(address(tasks)), 0);
        vm.assertLe(inVault, token.balanceOf(address(vault)), "the vault holds what it owes");
        vm.assertLe(token.balanceOf(address(vault)), inVault + dust, "and dust");
        vm.assertEq(token.balanceOf(address(distributor)), _owed(one) + _owed(other));
    }
}
