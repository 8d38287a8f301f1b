// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {Base} from "./Base.sol";
import {EmissionController, Schedule} from "../src/EmissionController.sol";
import {FlockToken} from "../src/FlockToken.sol";
import {ISettlement} from "../src/ISettlement.sol";
import {RewardDistributor} from "../src/RewardDistributor.sol";
import {StakeVault} from "../src/StakeVault.sol";
import {TaskRegistry} from "../src/TaskRegistry.sol";
import {Slash} from "../src/libraries/Reports.sol";
import {Terms} from "../src/libraries/TaskTerms.sol";

/// @notice A token that calls its receiver back, which FlockToken never does.
contract CallbackToken is ERC20("Callback", "CALL") {
    address private immutable _listener = msg.sender;
    address private _payer;
    bytes4 private _selector;

    constructor() {
        _mint(msg.sender, 1000);
    }

    function _update(address from, address to, uint256 amount) internal override {
        super._update(from, to, amount);
        if (from != address(0) && from == _payer && to == _listener) {
            (bool done,) = _listener.call(abi.encodePacked(_selector));
            require(done);
        }
    }

    function listen(address payer, bytes4 selector) external {
        (_payer, _selector) = (payer, selector);
    }
}

/// @notice Registry and distributor refuse a receiver that comes back while it is being paid, whatever the token does.
/// The test itself stands where the settlement contract would.
contract ReentrancyTest is Base {
    address private constant SINK = address(0x51);

    bytes32 private TASK;

    TaskRegistry private tasks;
    RewardDistributor private distributor;
    StakeVault private vault;
    uint256 private refusals;

    function received() external {
        bytes[3] memory calls = [
            abi.encodeCall(TaskRegistry.release, (TASK, address(this))),
            abi.encodeCall(TaskRegistry.slash, (TASK, 1, new Slash[](0), address(this))),
            abi.encodeCall(TaskRegistry.start, (TASK))
        ];
        for (uint256 i; i < calls.length; ++i) {
            _refused(address(tasks), calls[i]);
        }
    }

    /// @dev The distributor has written its books before it pays: coming back finds nothing left.
    function receivedFromPool() external {
        vm.assertEq(distributor.claimed(TASK, address(this)), 60);
        (bool done,) = address(distributor)
            .call(abi.encodeCall(RewardDistributor.claim, (TASK, address(this), 60, new bytes32[](0))));
        vm.assertTrue(!done, "paid twice");
        RewardDistributor.Account memory books = distributor.accountOf(TASK);
        vm.assertEq(books.claimed, 60);
        ++refusals;
    }

    function _refused(address target, bytes memory data) private {
        (bool done, bytes memory reason) = target.call(data);
        vm.assertTrue(!done, "reentered");
        bytes4 refusal = bytes4(reason);
        vm.assertEq(bytes32(refusal), bytes32(ReentrancyGuardTransient.ReentrancyGuardReentrantCall.selector));
        ++refusals;
    }

    /// @dev As the settlement contract's.
    function grace() external pure returns (uint64) {
        return 0;
    }

    /// @dev Called by the registry, as the settlement contract is.
    function open(bytes32, bytes32, uint32, uint32, uint32) external {}

    function test_ReceiverCannotReenter() public {
        CallbackToken token = new CallbackToken();
        FlockToken minted = new FlockToken(0);
        EmissionController emission =
            new EmissionController(minted, Schedule(address(1), 1000, 0, 1, uint64(block.timestamp), 1));
        distributor = RewardDistributor(vm.computeCreateAddress(address(this), vm.getNonce(address(this)) + 1));
        vault = StakeVault(vm.computeCreateAddress(address(this), vm.getNonce(address(this)) + 2));
        tasks =
            new TaskRegistry(token, emission, vault, distributor, ISettlement(address(this)), 0, SINK, address(this));
        new RewardDistributor(token, address(tasks), address(this), vault, 0, address(this));
        new StakeVault(token, address(tasks), address(distributor), StakeVault.Settings(1 days, 7, 8, 1e15));
        token.approve(address(tasks), 1000);
        token.approve(address(vault), 20);
        vault.stake(20);
        Terms memory terms;
        terms.pool = 100;
        terms.minStake = 10;
        terms.maxSlots = 2;
        terms.numVoters = 1;
        terms.numProposers = 1;
        terms.minMembers = 1;
        terms.maxMembers = 1;
        terms.numEpochs = 1;
        terms.maxSkips = 1;
        terms.epochDeadline = 1;
        terms.joinWindow = 1;
        terms.fixedGenesis = true;
        TASK = tasks.createTask(terms, keccak256("genesis"));
        tasks.join(TASK, 20, keccak256("tip"), keccak256(abi.encode(address(this), terms)));
        tasks.start(TASK);
        distributor.commit(
            TASK,
            keccak256(
                bytes.concat(
                    keccak256(abi.encode(block.chainid, address(distributor), TASK, address(this), uint256(60)))
                )
            ),
            60,
            1
        );
        token.listen(address(distributor), ReentrancyTest.receivedFromPool.selector);
        distributor.claim(TASK, address(this), 60, new bytes32[](0)); // calls back
        tasks.close(TASK); // the refund of the pool calls back
        vm.assertEq(refusals, 2);
        token.listen(address(vault), ReentrancyTest.received.selector);
        Slash[] memory slashes = new Slash[](1);
        slashes[0] = Slash(0, 20);
        tasks.slash(TASK, 1, slashes, address(this)); // the part of whom it is brought by calls back
        vm.assertEq(refusals, 5);
        vm.assertEq(token.balanceOf(address(this)), 1000 - 20 + 2);
    }
}
