//! Batches over loopback: what is sent together arrives apart, whatever the kernel does in between.

use super::*;
use crate::worker::batch::Batch;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

const LOOPBACK: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 0);

/// Datagrams by receiver.
type Arrived = BTreeMap<usize, Vec<Vec<u8>>>;

/// Sends datagrams of these lengths to each of three sockets, and returns what arrives.
fn send_to_three(lens: &[usize], segmentation: &Segmentation) -> (Arrived, SendCounters) {
    send_to_three_from(bind(SocketAddr::from(LOOPBACK)).unwrap(), lens, segmentation)
}

fn send_to_three_from(from: UdpSocket, lens: &[usize], segmentation: &Segmentation) -> (Arrived, SendCounters) {
    let local = from.local_addr().unwrap();
    let receivers: Vec<UdpSocket> = (0..3).map(|_| bind(SocketAddr::from(LOOPBACK)).unwrap()).collect();
    let (counters, sockets) = (SendCounters::default(), [(local, from)]);
    let mut sender = Sender::new(&sockets, &counters, segmentation);
    let mut batch = Batch::default();
    for (number, len) in lens.iter().enumerate() {
        for (owner, receiver) in receivers.iter().enumerate() {
            batch.push(&mut sender, owner, |slot| {
                slot[..*len].fill(u8::try_from(number % 256).unwrap());
                Some((*len, local, receiver.local_addr().unwrap()))
            });
        }
    }
    batch.flush(&mut sender);
    let (mut arrived, mut receiver) = (Arrived::new(), Receiver::new());
    let until = Instant::now() + Duration::from_secs(5);
    while arrived.values().map(Vec::len).sum::<usize>() < 3 * lens.len() && Instant::now() < until {
        for (owner, socket) in receivers.iter().enumerate() {
            let took = receiver.receive(socket, |remote, bytes| {
                assert_eq!(remote, local);
                arrived.entry(owner).or_default().push(bytes.to_vec());
            });
            took.unwrap();
        }
    }
    (arrived, counters)
}

fn read(classes: &Classes<AtomicU64>) -> Classes {
    std::array::from_fn(|class| classes[class].load(Ordering::Relaxed))
}

fn expected(lens: &[usize]) -> Arrived {
    let all: Vec<Vec<u8>> =
        lens.iter().enumerate().map(|(n, len)| vec![u8::try_from(n % 256).unwrap(); *len]).collect();
    (0..3).map(|owner| (owner, all.clone())).collect()
}

#[test]
fn runs_arrive_as_the_datagrams_they_were_made_of() {
    let lens = [1200, 1200, 1200, 1100, 130, 1000, 1000, 130, 1500, 40];
    let segmentation = Segmentation::probe();
    let (arrived, counters) = send_to_three(&lens, &segmentation);
    assert_eq!(arrived, expected(&lens));
    assert_eq!((counters.sent.into_inner(), counters.refused.into_inner()), (30, 0));
}

#[test]
fn overlong_and_empty_datagrams_are_dropped_and_the_next_one_arrives() {
    let (from, to) = (bind(SocketAddr::from(LOOPBACK)).unwrap(), bind(SocketAddr::from(LOOPBACK)).unwrap());
    for len in [2_049, 60_000, 0, 2_048] {
        from.send_to(&[5; 60_000][..len], to.local_addr().unwrap()).unwrap();
    }
    let (mut receiver, mut lens, until) = (Receiver::new(), Vec::new(), Instant::now() + Duration::from_secs(5));
    while lens.is_empty() && Instant::now() < until {
        receiver.receive(&to, |_, bytes| lens.push(bytes.len())).unwrap();
    }
    assert_eq!(lens, [2_048]);
}

#[test]
fn run_lengths_are_counted() {
    let segmentation = Segmentation::probe();
    let (arrived, counters) = send_to_three(&[1200; 70], &segmentation);
    assert_eq!(arrived, expected(&[1200; 70]));
    // 54 datagrams of 1200 bytes fill a message.
    let runs = if segmentation.works() { [0, 0, 0, 0, 3, 0, 3] } else { [210, 0, 0, 0, 0, 0, 0] };
    assert_eq!((read(&counters.runs), counters.sent.into_inner()), (runs, 210));
}

#[test]
fn without_segmentation_the_same_arrives() {
    let lens = [1200, 1200, 1200, 1100, 130];
    let (arrived, counters) = send_to_three(&lens, &Segmentation::default());
    assert_eq!(arrived, expected(&lens));
    assert_eq!(read(&counters.runs), [15, 0, 0, 0, 0, 0, 0]);
    assert_eq!(read(&counters.calls), [0, 0, 0, 0, 1, 0, 0], "all in one call");
}

#[test]
fn a_run_that_is_refused_goes_as_single_datagrams() {
    let from = bind(SocketAddr::from(LOOPBACK)).unwrap();
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open, and the option is an int. Without checksums Linux does not segment.
    let set = unsafe {
        let option = (&raw const on).cast();
        libc::setsockopt(from.as_raw_fd(), libc::SOL_SOCKET, libc::SO_NO_CHECK, option, socklen::<libc::c_int>())
    };
    assert_eq!(set, 0);
    let (segmentation, lens) = (Segmentation::probe(), [1200, 1200, 1100, 90, 80]);
    let (arrived, counters) = send_to_three_from(from, &lens, &segmentation);
    assert_eq!(arrived, expected(&lens));
    assert_eq!((read(&counters.runs), counters.refused.into_inner()), ([15, 0, 0, 0, 0, 0, 0], 0));
    assert!(!segmentation.works() || segmentation.refusals.load(Ordering::Relaxed) > 0);
}

#[test]
fn receiving_calls_are_counted_by_what_they_bring() {
    let (from, to) = (bind(SocketAddr::from(LOOPBACK)).unwrap(), bind(SocketAddr::from(LOOPBACK)).unwrap());
    let (segmentation, mut receiver) = (Segmentation::probe(), Receiver::new());
    assert_eq!(receiver.receive(&to, |_, _| {}).unwrap(), 0, "a call that brings nothing is none");
    let mut receive = |at_least: usize| {
        let (mut count, until) = (0, Instant::now() + Duration::from_secs(5));
        while count < at_least && Instant::now() < until {
            receiver.receive(&to, |_, _| count += 1).unwrap();
        }
        assert_eq!(count, at_least);
    };
    (0..5).for_each(|_| assert_eq!(from.send_to(&[5; 100], to.local_addr().unwrap()).unwrap(), 100));
    receive(5);
    let mut expected = [0, 0, 0, 1, 0, 0, 0];
    if segmentation.works() {
        send::send_segmented(&from, to.local_addr().unwrap(), &[5; 4_000], 100).unwrap();
        receive(40);
        expected[6] = 1;
    }
    assert_eq!(receiver.calls, expected);
}

#[test]
fn classes_are_as_they_are_described() {
    let bounds = [1, 2, 3, 4, 5, 8, 9, 16, 17, 32, 33, 64, 65, 2_048];
    assert_eq!(bounds.map(class_of), [0, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 6, 6]);
}

#[test]
fn when_a_queue_is_full_what_is_small_is_tried_again_and_nothing_else() {
    assert_eq!(send::kept_when_full(&[1200, 130, 800, 90, 1200]), ([130, 90].to_vec(), 3));
}

#[test]
fn many_refusals_in_a_row_switch_segmentation_off_and_a_few_do_not() {
    let segmentation = Segmentation { works: AtomicBool::new(true), refusals: AtomicU32::new(0) };
    for _ in 0..3 {
        (1..REFUSALS_MAX).for_each(|_| segmentation.refused(libc::EINVAL));
        segmentation.accepted();
    }
    assert!(segmentation.works());
    (0..REFUSALS_MAX).for_each(|_| segmentation.refused(libc::EMSGSIZE));
    assert!(!segmentation.works());
    let segmentation = Segmentation { works: AtomicBool::new(true), refusals: AtomicU32::new(0) };
    segmentation.refused(libc::EIO);
    assert!(!segmentation.works());
}
