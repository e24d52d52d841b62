//! Model of an armed pair: its client, its endpoints and the agent change one word by the transitions of
//! `proxy_common::pair`, under many schedules. What the programs do mirrors `proxy-ebpf/src/splice.rs`, what
//! the agent does `proxy-userspace/src/splice.rs`; messages stand for bytes, a request's number for its
//! content. The scheduler is shuttle's: every access to something shared is a place to switch.
//!
//! Not in the model: a client that leaves the socket map, wrapping of the counted bytes and epochs, and
//! processors that reorder memory accesses (every change of the word is a full barrier).
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod actors;
mod agent;
mod world;

use shuttle::{
    Config, FailurePersistence, MaxSteps, Runner,
    scheduler::{PctScheduler, RandomScheduler},
    thread,
};
use std::sync::Arc;
use world::{ENDPOINTS, Kind, Scenario, World};

/// Schedules of each scenario and scheduler: together they take a few seconds.
const SCHEDULES: usize = 1_000;
/// Preemptions that the second scheduler places.
const DEPTH: usize = 4;

/// Runs a scenario under random schedules, and under such as have few preemptions at odd places.
fn prove(scenario: Scenario) {
    let mut config = Config::new();
    config.max_steps = MaxSteps::FailAfter(20_000);
    config.failure_persistence = FailurePersistence::None;
    let scenario = Arc::new(scenario);
    let once = {
        let scenario = Arc::clone(&scenario);
        move || run(&scenario)
    };
    Runner::new(RandomScheduler::new(SCHEDULES), config.clone()).run(once.clone());
    Runner::new(PctScheduler::new(DEPTH, SCHEDULES), config).run(once);
}

fn run(scenario: &Scenario) {
    let world = Arc::new(World::new(scenario.clone()));
    let mut actors = Vec::new();
    for endpoint in 0..ENDPOINTS {
        let world = Arc::clone(&world);
        actors.push(thread::spawn(move || actors::endpoint(&world, endpoint)));
    }
    for actor in [actors::client as fn(&World), actors::clock, agent::agent] {
        let world = Arc::clone(&world);
        actors.push(thread::spawn(move || actor(&world)));
    }
    for actor in actors {
        actor.join().unwrap();
    }
    world.check();
}

fn requests(kinds: &[Kind]) -> Scenario {
    Scenario { requests: kinds.to_vec(), ..Scenario::default() }
}

use Kind::{Body, Denied, Odd, Small};

#[test]
fn every_request_is_answered_once_and_in_order_whoever_carries_it() {
    prove(requests(&[Small, Small, Odd, Small, Denied, Small]));
}

#[test]
fn bodies_and_early_answers_go_to_their_exchange() {
    prove(requests(&[Small, Body, Body, Odd, Body, Small]));
}

#[test]
fn an_answer_that_the_kernel_half_cannot_carry_is_the_agents_whole() {
    prove(Scenario { large: true, ..requests(&[Small, Small, Body, Small, Small]) });
}

#[test]
fn requests_that_are_sent_ahead_keep_their_order() {
    prove(Scenario { ahead: true, large: true, ..requests(&[Small, Small, Small, Odd, Body, Small]) });
}

#[test]
fn a_request_is_never_executed_twice_and_no_body_is_read_as_one_when_endpoints_go_away() {
    prove(Scenario { dies: true, large: true, ..requests(&[Small, Small, Body, Small, Body, Odd, Small]) });
}

#[test]
fn only_the_exchange_that_is_late_is_given_up() {
    prove(Scenario { late: Some(3), large: true, ..requests(&[Small, Small, Small, Small, Small, Small]) });
}

#[test]
fn whatever_comes_together_the_client_sees_its_answers_or_the_end() {
    prove(Scenario {
        late: Some(4),
        dies: true,
        ahead: true,
        large: true,
        ..requests(&[Small, Body, Small, Small, Odd, Small])
    });
}
