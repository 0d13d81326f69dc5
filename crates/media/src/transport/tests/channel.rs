//! The data channel.

use super::*;

impl Pair {
    fn with_channel() -> Self {
        let mut pair = Self::new();
        pair.connected_after(Duration::from_secs(2)).expect("connected");
        pair.act(|pair, net| pair.client.open_channel(pair.now, net, &mut pair.client_events));
        pair.run(Duration::from_millis(500));
        pair
    }

    /// Texts that came since the last call: at the bridge, at the client.
    fn texts(&mut self) -> (Vec<String>, Vec<String>) {
        let text = |event: Event| if let Event::ChannelText(text) = event { Some(text) } else { None };
        (
            self.bridge_events.drain(..).filter_map(text).collect(),
            self.client_events.drain(..).filter_map(text).collect(),
        )
    }
}

#[test]
fn a_data_channel_opens_and_carries_texts_of_every_length_both_ways() {
    let mut pair = Pair::with_channel();
    assert!(pair.bridge_events.contains(&Event::ChannelOpen) && pair.client_events.contains(&Event::ChannelOpen));
    let texts = ["hello".to_owned(), String::new(), "x".repeat(64 * 1024 + 1), "y".repeat(256 * 1024)];
    for text in &texts {
        assert!(pair.client.send_text(pair.now, text) && pair.bridge.send_text(pair.now, text), "{}", text.len());
        pair.run(Duration::from_secs(4));
    }
    let (at_bridge, at_client) = pair.texts();
    assert!(at_bridge == texts && at_client == texts, "{} and {} came", at_bridge.len(), at_client.len());
    assert!(!pair.bridge.send_text(pair.now, &"z".repeat(256 * 1024 + 1)), "longer than both sides may say");
    assert!(pair.bridge.send_text(pair.now, "still open"));
}

#[test]
fn texts_arrive_whole_and_in_order_over_a_bad_network() {
    let mut pair = Pair::with_channel();
    pair.lost_of_ten = 2;
    let texts: Vec<String> = (0..30).map(|n| format!("{n} {}", "x".repeat(2_000))).collect();
    for text in &texts {
        assert!(pair.client.send_text(pair.now, text));
        pair.run(Duration::from_millis(50));
    }
    pair.run(Duration::from_secs(60));
    assert_eq!(pair.texts().0, texts);
}

#[test]
fn an_idle_endpoint_has_no_sctp_and_an_idle_channel_asks_for_no_timer() {
    let mut pair = Pair::new();
    pair.connected_after(Duration::from_secs(2)).expect("connected");
    pair.run(Duration::from_secs(5));
    assert!(pair.bridge.channel.is_none() && !pair.bridge.send_text(pair.now, "nobody listens"));
    let mut pair = Pair::with_channel();
    pair.run(Duration::from_secs(5));
    assert_eq!(pair.bridge.channel.as_ref().map(|channel| channel.next_timeout()), Some(None));
}

#[test]
fn a_second_channel_is_refused_and_the_first_goes_on() {
    let mut pair = Pair::with_channel();
    pair.client.channel.as_mut().unwrap().open_another(pair.now, 2);
    pair.run(Duration::from_secs(2));
    assert_eq!(pair.bridge_events.iter().filter(|event| **event == Event::ChannelRefused).count(), 1);
    assert!(pair.client.send_text(pair.now, "first") && pair.bridge.send_text(pair.now, "first"));
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.texts(), (vec!["first".to_owned()], vec!["first".to_owned()]));
}

#[test]
fn a_channel_opened_twice_on_its_stream_stays_open() {
    let mut pair = Pair::with_channel();
    pair.client.channel.as_mut().unwrap().open_another(pair.now, 0);
    assert!(pair.client.send_text(pair.now, "after"));
    pair.run(Duration::from_secs(2));
    assert!(pair.bridge_events.contains(&Event::ChannelRefused));
    assert_eq!(pair.texts().0, ["after"]);
}

#[test]
fn a_second_association_is_ignored_while_the_first_lives() {
    let mut pair = Pair::with_channel();
    let first = pair.client.channel.take();
    pair.act(|pair, net| pair.client.open_channel(pair.now, net, &mut pair.client_events));
    pair.run(Duration::from_secs(4));
    pair.client.channel = first;
    pair.texts();
    assert!(pair.client.send_text(pair.now, "as before") && pair.bridge.send_text(pair.now, "as before"));
    pair.run(Duration::from_secs(4));
    assert_eq!(pair.texts(), (vec!["as before".to_owned()], vec!["as before".to_owned()]));
}

#[test]
fn a_client_that_stops_reading_costs_a_bounded_queue_and_hears_of_it_when_it_is_back() {
    let mut pair = Pair::with_channel();
    pair.bridge_events.clear();
    pair.lost_of_ten = 10;
    let text = "x".repeat(1_000);
    let taken = (0..5_000).filter(|_| pair.bridge.send_text(pair.now, &text)).count();
    assert!((900..=1_100).contains(&taken), "{taken} texts of 1000 bytes were queued");
    pair.run(Duration::from_secs(2));
    pair.lost_of_ten = 0;
    pair.run(Duration::from_secs(60));
    assert_eq!(pair.bridge_events, [Event::ChannelOpen], "once, for what was dropped");
    assert_eq!(pair.texts().1.len(), taken);
    assert!(pair.bridge.send_text(pair.now, "room again"));
}

#[test]
fn garbage_in_place_of_sctp_makes_no_state_and_ends_nothing() {
    let mut pair = Pair::new();
    pair.connected_after(Duration::from_secs(2)).expect("connected");
    for packet in [&b""[..], b"hello", &[0; 40], &[0x13, 0x88, 0x13, 0x88, 0, 0, 0, 0, 1, 2, 3, 4, 1, 0, 0, 20]] {
        pair.act(|pair, net| {
            pair.client.dtls.handle_timeout(pair.now).unwrap();
            pair.client.dtls.send_application_data(packet).unwrap();
            pair.client.drain_dtls(pair.now, false, net, &mut pair.client_events);
        });
    }
    pair.run(Duration::from_secs(1));
    assert!(pair.media_reaches_the_bridge(3) && !pair.bridge.has_channel());
}
