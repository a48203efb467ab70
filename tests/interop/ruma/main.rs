//! What ruma-events finds in events, one JSON text a line: the members of the room's call, as matrix-rust-sdk
//! counts them for Element X's call indicator.

use std::io::{BufRead, Write, stdin, stdout};

use ruma_events::{AnySyncStateEvent, SyncStateEvent};
use serde_json::{Value, json};

fn members(line: &str) -> Value {
    let event = match serde_json::from_str(line) {
        Ok(AnySyncStateEvent::CallMember(SyncStateEvent::Original(event))) => event,
        Ok(_) => return json!({"members": [], "why": "another event"}),
        Err(error) => return json!({"members": [], "why": error.to_string()}),
    };
    let mut content = event.content;
    content.set_created_ts_if_none(event.origin_server_ts);
    let members: Vec<Value> = content
        .active_memberships(None)
        .iter()
        .filter(|membership| membership.is_room_call())
        .map(|membership| {
            json!({
                "user_id": event.state_key.user_id(),
                "device_id": membership.device_id(),
                "foci": membership.foci_preferred(),
            })
        })
        .collect();
    json!({"members": members})
}

fn main() {
    for line in stdin().lock().lines() {
        let answer = members(&line.expect("a line"));
        writeln!(stdout(), "{answer}").expect("a reader");
    }
}
