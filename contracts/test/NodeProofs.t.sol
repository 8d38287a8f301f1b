// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Base} from "./Base.sol";
import {EmissionController} from "../src/EmissionController.sol";
import {Head, ISettlement} from "../src/ISettlement.sol";
import {RewardDistributor} from "../src/RewardDistributor.sol";
import {StakeVault} from "../src/StakeVault.sol";
import {TaskRegistry} from "../src/TaskRegistry.sol";
import {TaskTerms, Terms} from "../src/libraries/TaskTerms.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";

/// @notice Proofs for halmos about the nodes of a contest, for every value of the arguments. The registry is real; this
/// contract stands for all others, and is the contest's only member.
contract NodeProofs is Base {
    uint64 private constant WINDOW = 100;
    uint32 private constant LAG = 1;
    uint128 private constant SLOT = 1 ether;
    address private constant NODE = address(0x40DE);

    TaskRegistry private registry;
    Terms private terms;
    uint24 private lastSettled;
    uint256 private locked;

    function setUp() public {
        address all = address(this);
        registry = new TaskRegistry(
            IERC20(all),
            EmissionController(all),
            StakeVault(all),
            RewardDistributor(all),
            ISettlement(all),
            WINDOW,
            address(0x51),
            all
        );
        (terms.minStake, terms.maxSlots, terms.numVoters, terms.numProposers) = (SLOT, 2, 1, 1);
        (terms.minMembers, terms.maxMembers, terms.numEpochs, terms.maxUnsettled) = (1, 2, 1000, LAG);
        (terms.maxSkips, terms.epochDeadline, terms.joinWindow, terms.fixedGenesis) = (1, 1, 1, true);
    }

    // -- what the registry asks of the others

    function grace() external pure returns (uint64) {
        return 0;
    }

    function epochCap() external pure returns (uint256) {
        return 0;
    }

    function deposit(bytes32, uint128, uint128) external {}

    function open(bytes32, bytes32, uint32, uint32, uint32) external {}

    function transferFrom(address, address, uint256) external pure returns (bool) {
        return true;
    }

    function headOf(bytes32) external view returns (Head memory head) {
        head.clock.lastSettled = lastSettled;
    }

    function lock(bytes32, address operator, address, uint256 amount) external returns (bool) {
        if (operator != address(this)) locked = amount;
        return false;
    }

    function unlock(bytes32, address) external returns (uint256 amount) {
        (amount, locked) = (locked, 0);
    }

    // -- proofs

    /// @notice An account enters exactly if it means this contest, brings the least stake and has no role here; whoever it
    /// is and whatever it brings, it moves no slot, waits for no settlement, and takes no role twice.
    function check_NodeEntersExactlyIfItMay(uint96 least, uint128 amount, bytes32 expected, address account) public {
        if (least == 0) return;
        (bytes32 task, bytes32 digest) = _running(least);
        bool may = expected == digest && amount >= least && account != address(this);
        vm.prank(account);
        try registry.enter(task, amount, expected) {
            assert(may);
            assert(locked == amount);
            assert(registry.indexOf(task, account) == 1);
        } catch {
            assert(!may);
            assert(locked == 0);
        }
        (uint256 changes, uint256 numSlots) = registry.dueAt(task, type(uint256).max);
        assert(changes == 0 && numSlots == 2 && registry.numChanges(task) == 0);
        vm.prank(account);
        try registry.enter(task, amount, expected) {
            assert(false);
        } catch {}
    }

    /// @notice No task without nodes is entered, whatever is brought.
    function check_OnlyContestsAreEntered(uint128 amount, bytes32 expected, address account) public {
        bytes32 task = registry.createTask(terms, "seed");
        _start(task, keccak256(abi.encode(address(this), terms)));
        vm.prank(account);
        try registry.enter(task, amount, expected) {
            assert(false);
        } catch {}
    }

    /// @notice The stake of a node that leaves is released an evidence window after somebody noted that it left, and not before
    /// the epoch is over in which it may still have taken part.
    function check_NodeAnswersUntilItsWindowIsOver(uint24 asked, uint24 later, uint40 noted, uint40 time) public {
        if (noted == 0 || time < noted) return;
        (bytes32 task, bytes32 digest) = _running(1);
        vm.prank(NODE);
        registry.enter(task, SLOT, digest);
        lastSettled = asked;
        vm.prank(NODE);
        try registry.resign(task) {
            assert(uint256(asked) + LAG + 3 <= terms.numEpochs);
        } catch {
            return;
        }
        lastSettled = later;
        vm.warp(noted);
        _release(task);
        assert(locked == SLOT);
        vm.warp(time);
        _release(task);
        bool over = uint256(later) >= uint256(asked) + LAG + 3 && uint256(time) >= uint256(noted) + WINDOW;
        assert((locked == 0) == over);
    }

    function _release(bytes32 task) private {
        try registry.release(task, NODE) {} catch {}
    }

    /// @dev A running contest.
    function _running(uint96 least) private returns (bytes32 task, bytes32 digest) {
        task = registry.createContest(terms, "seed", least);
        digest = keccak256(abi.encode(keccak256(abi.encode(address(this), terms)), least));
        _start(task, digest);
    }

    function _start(bytes32 task, bytes32 digest) private {
        registry.join(task, 2 * SLOT, "tip", digest);
        registry.start(task);
    }
}
