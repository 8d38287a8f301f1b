// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Base} from "./Base.sol";
import {EmissionController, Schedule} from "../src/EmissionController.sol";
import {FlockToken} from "../src/FlockToken.sol";
import {RewardDistributor} from "../src/RewardDistributor.sol";
import {StakeVault} from "../src/StakeVault.sol";
import {Clock, Clocks} from "../src/libraries/Clocks.sol";
import {Delegation, Pool, Request, StakePools, StoredDelegation, Thawing} from "../src/libraries/StakePools.sol";
import {Report, Reports} from "../src/libraries/Reports.sol";

/// @notice Proofs for halmos, which takes the arguments of a `check_` function as any value. forge does not run them.
contract LibraryProofs is Base {
    using StakePools for Pool;
    using StakePools for StoredDelegation;
    using StakePools for Thawing;

    Pool private pool;
    StoredDelegation private stored;
    Thawing private thawing;
    Request private request;

    /// @notice A clock comes out of its word as it went in.
    function check_ClockOutOfItsWord(Clock memory clock) public pure {
        Clock memory again = Clocks.unpack(Clocks.pack(clock));
        assert(keccak256(abi.encode(again)) == keccak256(abi.encode(clock)));
    }

    /// @notice A delegation comes out of its words as it went in; the shares' words stay when they did not move, and nothing
    /// of an older one comes back.
    function check_DelegationOutOfItsWords(Delegation memory delegation, Delegation memory later) public {
        stored.store(delegation, true);
        assert(keccak256(abi.encode(stored.load())) == keccak256(abi.encode(delegation)));
        bytes memory whole = abi.encode(later);
        stored.store(later, false);
        (later.shares, later.earning, later.freshEpoch) = (delegation.shares, delegation.earning, delegation.freshEpoch);
        later.earlier = delegation.earlier;
        assert(keccak256(abi.encode(stored.load())) == keccak256(abi.encode(later)));
        stored.store(abi.decode(whole, (Delegation)), true);
        assert(keccak256(abi.encode(stored.load())) == keccak256(whole));
    }

    /// @notice The hash that is put together by hand is that of EIP-712, for every report without slashes.
    function check_ReportHashIsThatOfTheStandard(Report calldata report) public pure {
        if (report.slashes.length != 0) return;
        bytes32 expected = keccak256(
            bytes.concat(
                abi.encode(
                    Reports.REPORT_TYPEHASH,
                    report.task,
                    report.epoch,
                    report.previousReport,
                    report.seed,
                    report.revealsDigest,
                    report.rewardsRoot
                ),
                abi.encode(report.rewardsTotal, keccak256(""), report.modelHash, report.recordHash, report.relayer)
            )
        );
        assert(Reports.hash(report) == expected);
    }

    /// @notice Whoever asks first and waits alone gets all of it, and the pool of thawing stake is empty then.
    function check_ThawingComesBack(uint96 amount) public {
        if (amount >= 1 << 92) return;
        thawing.thaw(request, amount);
        assert(thawing.assets == amount && thawing.shares == amount);
        assert(thawing.release(request) == amount);
        assert(thawing.assets == 0 && thawing.shares == 0 && request.shares == 0);
    }

    /// @notice With nobody that earns, all rewards are the operator's; nothing reverts and no share is divided by.
    function check_RewardsWithoutDelegatorsAreTheOperators(uint96 own, uint96 before, uint96 amount, uint32 epoch)
        public
    {
        if (before >= 1 << 92 || amount >= 1 << 92) return;
        (pool.own, pool.operatorRewards) = (own, before);
        assert(pool.distribute(amount, epoch) == 0);
        assert(pool.operatorRewards == uint256(before) + amount);
        assert(pool.rewardPerShare == 0);
    }
}

contract MoneyProofs is Base {
    bytes32 private constant TASK = keccak256("task");
    address private constant ALICE = address(0xA1);

    FlockToken private token;
    RewardDistributor private distributor;

    /// @dev This contract is registry and settlement at once.
    function setUp() public {
        token = new FlockToken(0);
        token.setMinter(address(this));
        distributor =
            new RewardDistributor(token, address(this), address(this), StakeVault(address(0)), 0, address(this));
    }

    /// @notice Whatever is minted and burnt, the lifetime's total is what was minted and never above the cap.
    function check_LifetimeCap(uint256 first, uint256 burnt, uint256 second, uint256 third) public {
        _mint(first);
        try token.burn(burnt) {} catch {}
        _mint(second);
        _mint(third);
        assert(token.totalMinted() <= 1e27);
        assert(token.totalSupply() <= token.totalMinted());
    }

    function _mint(uint256 amount) private {
        uint256 before = token.totalMinted();
        try token.mint(address(this), amount) {
            assert(token.totalMinted() == before + amount);
        } catch {
            assert(amount > 1e27 - before);
            assert(token.totalMinted() == before);
        }
    }

    /// @notice Whatever is committed, in whichever epoch: never more than was deposited, nor the reserve before the end.
    function check_CommitmentsStayWithinTheBudget(
        uint128 deposited,
        uint128 reserve,
        uint128 first,
        uint128 second,
        uint8 left
    ) public {
        if (reserve > deposited || left < 2) return;
        distributor.deposit(TASK, deposited, reserve);
        try distributor.commit(TASK, "first", first, left) {
            assert(first <= deposited - reserve);
        } catch {}
        uint128 committed = distributor.accountOf(TASK).committed;
        try distributor.commit(TASK, "second", second, 1) {
            assert(committed <= second && second <= deposited);
        } catch {
            assert(second < committed || second > deposited);
        }
    }

    /// @notice Claims under two roots pay together what the second says, whoever calls; a third pays nothing.
    function check_ClaimsAreCumulative(uint128 first, uint128 second, address caller) public {
        if (first == 0 || second <= first || second > 1e27) return;
        token.mint(address(distributor), second);
        distributor.deposit(TASK, second, 0);
        _claim(first, caller);
        assert(token.balanceOf(ALICE) == first);
        _claim(second, caller);
        assert(token.balanceOf(ALICE) == second);
        try distributor.claim(TASK, ALICE, second, new bytes32[](0)) {
            assert(false);
        } catch {}
    }

    function _claim(uint128 cumulative, address caller) private {
        bytes32 leaf = keccak256(abi.encode(block.chainid, address(distributor), TASK, ALICE, uint256(cumulative)));
        distributor.commit(TASK, keccak256(bytes.concat(leaf)), cumulative, 1);
        vm.prank(caller);
        try distributor.claim(TASK, ALICE, cumulative, new bytes32[](0)) {}
        catch {
            assert(false);
        }
    }
}

contract EmissionProofs is Base {
    uint256 private constant START = 1e9;

    FlockToken private token;
    EmissionController private emission;

    function setUp() public {
        token = new FlockToken(9e26);
        emission = new EmissionController(token, Schedule(address(0x7E), 4e25, 1000, 1, uint64(START), 1));
        token.setMinter(address(emission));
    }

    /// @notice A day of the first four is released once, not before it begins, and never past the cap.
    function check_ReleasesFollowTheSchedule(uint8 first, uint8 second, uint40 time) public {
        if (first > 3 || second > 3) return;
        vm.warp(time);
        _release(first, time >= START + uint256(first) * 1 days);
        _release(second, second != first && time >= START + uint256(second) * 1 days);
        assert(token.totalMinted() <= 1e27);
    }

    function _release(uint256 day, bool expected) private {
        uint256 before = token.totalMinted();
        uint256 amount = emission.emission(day);
        try emission.release(day) {
            assert(expected);
            assert(token.totalMinted() == (before + amount < 1e27 ? before + amount : 1e27));
        } catch {
            assert(!expected);
        }
    }
}
