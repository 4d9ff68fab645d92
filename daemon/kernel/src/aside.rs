//! Where long calls run: on threads of their own, behind whatever else the node does.
//!
//! ```text
//! call ─► the caller's task ─► ends, as most do
//!             │    ^
//!    it is long    the processors are full: for a while it goes on beside the short ones
//!             v    │
//!         an idle thread, where its guest goes on ─► its end
//! ```
//! A guest holds its thread from tick to tick. On a thread of the operating system's idle class that is nobody's loss: short
//! calls, the store and the mesh take the processor at once. What that class gets on a machine that is busy all the time is
//! next to nothing, so a call that is left waiting there comes back, and none goes there for a while.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Wake},
    thread::{self, Thread},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use thread_priority::{NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy, set_thread_priority_and_policy, thread_native_id};
use tokio::{runtime::Handle, sync::oneshot};

use crate::share::Pass;

/// Whoever waits for a processor for so long doesn't share it with others, but is left out.
const LEFT_OUT: Duration = Duration::from_millis(20);
/// How long no call goes aside after that.
const REST: Duration = Duration::from_millis(250);
/// Guests have stacks of their own.
const STACK: usize = 256 << 10;

type Work<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Whether calls may go aside. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Aside {
    born: Instant,
    /// In milliseconds since then: until when none does.
    rests_until: Arc<AtomicU64>,
}

/// What came of work aside.
enum Left<T> {
    Ended(T),
    /// It was left out.
    Back(Work<T>),
}

impl Aside {
    pub(crate) fn new() -> Self {
        Self { born: Instant::now(), rests_until: Arc::default() }
    }

    /// Does a call's work to its end. Dropping the future drops the work, if it is aside a moment later.
    pub(crate) async fn run<T: Send + 'static>(&self, pass: Pass, work: impl Future<Output = T> + Send + 'static) -> T {
        let mut work: Work<T> = Box::pin(work);
        loop {
            let leaves = || pass.is_long() && !self.rests();
            let here = std::future::poll_fn(|context| {
                if leaves() {
                    return Poll::Ready(None);
                }
                match work.as_mut().poll(context) {
                    Poll::Ready(ended) => Poll::Ready(Some(ended)),
                    Poll::Pending if leaves() => Poll::Ready(None),
                    Poll::Pending => Poll::Pending,
                }
            });
            if let Some(ended) = here.await {
                return ended;
            }
            match self.go(work).await {
                Left::Ended(ended) => return ended,
                Left::Back(left) => work = left,
            }
        }
    }

    fn rests(&self) -> bool {
        self.born.elapsed().as_millis() < u128::from(self.rests_until.load(Ordering::Relaxed))
    }

    fn rest(&self) {
        let until = self.born.elapsed() + REST;
        self.rests_until.store(u64::try_from(until.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Goes on with it on a thread of its own.
    async fn go<T: Send + 'static>(&self, work: Work<T>) -> Left<T> {
        let ((hand, handed), (tell, told)) = (oneshot::channel(), oneshot::channel());
        let (aside, runtime) = (self.clone(), Handle::current());
        let thread = thread::Builder::new().name("kernel-long".into()).stack_size(STACK).spawn(move || {
            give_way();
            if let Ok(work) = handed.blocking_recv() {
                let _runtime = runtime.enter();
                aside.drive(work, tell);
            }
        });
        match thread {
            Ok(_) => {
                let _ = hand.send(work);
                told.await.expect("work that goes aside ends or comes back, unless it panics: then so does this")
            }
            Err(error) => {
                tracing::warn!(%error, "no thread for a long call: it goes on among the short ones");
                self.rest();
                Left::Back(work)
            }
        }
    }

    /// Polls it whenever it is woken, until it ends, is left out, or nobody waits for it any more.
    fn drive<T>(&self, mut work: Work<T>, mut tell: oneshot::Sender<Left<T>>) {
        let bell = Arc::new(Bell { rung: Mutex::new(Some(Instant::now())), thread: thread::current() });
        let waker = Arc::clone(&bell).into();
        let mut context = Context::from_waker(&waker);
        loop {
            let (woken, begun) = (bell.wait(), Instant::now());
            if tell.poll_closed(&mut context).is_ready() {
                return;
            }
            if let Poll::Ready(ended) = work.as_mut().poll(&mut context) {
                let _ = tell.send(Left::Ended(ended));
                return;
            }
            // It comes to a tick before that, as long as it has a processor.
            if begun.duration_since(woken).max(begun.elapsed()) > LEFT_OUT {
                self.rest();
                let _ = tell.send(Left::Back(work));
                return;
            }
        }
    }
}

/// Lets all others of the process go first. Where that isn't allowed, or isn't known, it runs like them.
fn give_way() {
    let idle = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
    if let Err(error) = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, idle) {
        tracing::debug!(?error, "long calls run like short ones");
    }
}

/// Wakes a thread, and knows since when.
struct Bell {
    rung: Mutex<Option<Instant>>,
    thread: Thread,
}

impl Bell {
    fn wait(&self) -> Instant {
        loop {
            if let Some(rung) = self.rung.lock().take() {
                return rung;
            }
            thread::park();
        }
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.lock().get_or_insert_with(Instant::now);
        self.thread.unpark();
    }
}

#[cfg(test)]
mod tests {
    use protocol::AgentId;

    use super::*;
    use crate::share::Shares;

    fn long() -> Pass {
        let pass = Shares::new(0).free(Some(AgentId::new())).expect("nobody pays");
        pass.make_long();
        pass
    }

    /// See proc_pid_stat(5).
    #[cfg(target_os = "linux")]
    fn scheduling_policy() -> String {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").expect("proc");
        let after_name = stat.rsplit(')').next().expect("fields");
        after_name.split_whitespace().nth(38).expect("the 41st field").into()
    }

    #[tokio::test]
    async fn what_is_long_runs_elsewhere_and_comes_back_when_it_is_left_out() {
        let (aside, here) = (Aside::new(), thread::current().id());
        let places = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&places);
        let work = async move {
            seen.lock().push(thread::current().id());
            #[cfg(target_os = "linux")]
            assert_eq!(scheduling_policy(), "5", "SCHED_IDLE");
            // As if the processors were taken all the time.
            thread::sleep(2 * LEFT_OUT);
            tokio::task::yield_now().await;
            seen.lock().push(thread::current().id());
            7
        };
        assert_eq!(aside.run(long(), work).await, 7);
        let places = places.lock();
        assert!(places[0] != here && places[1] == here, "{places:?} beside {here:?}");
        assert!(aside.rests());
    }

    #[tokio::test]
    async fn what_nobody_waits_for_is_dropped() {
        let (dropped, gone) = oneshot::channel::<()>();
        let (aside, pass) = (Aside::new(), long());
        let work = async move {
            let _dropped = dropped;
            std::future::pending::<()>().await;
        };
        let waiting = tokio::spawn(async move { aside.run(pass, work).await });
        tokio::task::yield_now().await;
        waiting.abort();
        let gone = tokio::time::timeout(Duration::from_secs(60), gone).await.expect("in time");
        gone.expect_err("it was dropped, not told");
    }
}
