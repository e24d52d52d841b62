//! The client, its endpoints, and the clock that finds exchanges late.

use crate::world::{Kind, MORTAL, Part, Reply, World};
use shuttle::{
    rand::{Rng, thread_rng},
    thread,
};

fn chance() -> bool {
    thread_rng().gen_bool(0.5)
}

pub(crate) fn client(world: &World) {
    let mut to_peer = 0;
    let mut answered = 0;
    for (id, kind) in (1..).zip(world.scenario.requests.clone()) {
        let parts: u32 = if kind == Kind::Body { 2 } else { 1 };
        for at in 0..parts {
            send(world, Part { id, kind, first: at == 0, last: at + 1 == parts }, &mut to_peer);
        }
        while answered < id && !(world.scenario.ahead && chance()) {
            if !receive(world, answered + 1) {
                return leave(world);
            }
            answered += 1;
        }
    }
    let asked = u32::try_from(world.scenario.requests.len()).unwrap();
    while answered < asked && receive(world, answered + 1) {
        answered += 1;
    }
    leave(world);
}

fn leave(world: &World) {
    world.change(|net| net.client_gone = true);
}

fn send(world: &World, part: Part, to_peer: &mut u32) {
    let carried = world.asked(part, *to_peer);
    *to_peer += u32::from(carried.is_none());
    // The message moves after the program has run.
    world.change(|net| match carried {
        Some(endpoint) if net.gone[endpoint] || net.left[endpoint] => {}
        Some(endpoint) => net.to_endpoint[endpoint].push_back(part),
        None => net.to_agent.push_back(part),
    });
}

/// Reads a whole answer; false where the connection has ended instead.
fn receive(world: &World, id: u32) -> bool {
    loop {
        let next = |net: &mut crate::world::Net| match net.to_client.pop_front() {
            Some(reply) => Some(Some(reply)),
            None => net.cut.then_some(None),
        };
        let Some(reply) = world.until(next) else { return false };
        assert_eq!(reply.id, id, "an answer to another request");
        if reply.left == 0 {
            world.change(|net| net.answered.push(reply));
            return true;
        }
    }
}

pub(crate) fn endpoint(world: &World, own: usize) {
    let mortal = world.scenario.dies && own < MORTAL;
    let mut answering = None;
    loop {
        let next = |net: &mut crate::world::Net| match net.to_endpoint[own].pop_front() {
            Some(part) => Some(Some(part)),
            None => net.left[own].then_some(None),
        };
        let Some(part) = world.until(next) else { return };
        if part.first {
            assert_eq!(answering, None, "a request within another one's body");
            world.change(|net| net.executed.push(part.id));
            answering = Some(part.id);
        } else {
            assert!(answering.is_none_or(|id| id == part.id), "a body of another request");
        }
        if mortal && chance() {
            return world.change(|net| net.gone[own] = true);
        }
        // Perhaps before the body is complete.
        if answering == Some(part.id) && (part.last || chance()) {
            answer(world, own, part.id);
            answering = None;
        }
        if mortal && part.last && chance() {
            return world.change(|net| net.gone[own] = true);
        }
    }
}

fn answer(world: &World, own: usize, id: u32) {
    let large = world.scenario.large && chance();
    for left in (0..=u32::from(chance())).rev() {
        let reply = Reply { id, left, large, genuine: true };
        let carried = world.told(own, reply);
        world.change(|net| {
            if carried {
                net.to_client.push_back(reply);
            } else if !net.left[own] {
                net.from_endpoint[own].push_back(reply);
            }
        });
    }
}

/// Looks through the pairs now and then.
pub(crate) fn clock(world: &World) {
    let Some(late) = world.scenario.late else { return };
    while !world.change(|net| net.client_gone || net.cut) {
        thread::yield_now();
        if world.carried().is_some_and(|(_, started)| started == late) {
            world.change(|net| net.rings = true);
        }
    }
}
