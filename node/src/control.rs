//! The control socket: how commands ask the running node.
//!
//! A Unix socket in the folder `run`, which only its owner can enter. One line of JSON each way and a
//! connection: the question `{"ask": "status"}`, with arguments beside `ask`; the answer `{"answer": …}` or
//! `{"refusal": "a sentence"}`.

use std::cell::Cell;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::rc::Rc;

use serde_json::{Value, json};

use crate::exit::{Exit, Failure};

/// An answer, or a refusal as a sentence.
pub type Answer = Result<Value, String>;
/// What answers questions: the word behind `ask`, and the whole question.
pub type Answerer = Rc<dyn Fn(&str, Value) -> Pin<Box<dyn Future<Output = Answer>>>>;

/// The socket's place in a home folder.
pub fn path(home: &Path) -> PathBuf {
    home.join("run/control.socket")
}

#[cfg(not(unix))]
pub use elsewhere::{Control, ask};
#[cfg(unix)]
pub use unix::{Control, ask};

#[cfg(unix)]
mod unix {
    use std::fs;
    use std::io::{self, Read, Write};
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::{UnixListener, UnixStream};

    use smol::future::FutureExt;
    use smol::io::{AsyncReadExt, AsyncWriteExt};
    use smol::{Async, LocalExecutor, Timer};

    use super::*;
    use crate::limits::{
        ACCEPT_PAUSE, ANSWER_BYTES_MAX, ANSWER_TIME_MAX, QUESTION_BYTES_MAX, QUESTION_TIME_MAX, QUESTIONS_MAX,
    };

    /// The open socket of a running node; its file goes when it is dropped.
    pub struct Control {
        listener: Async<UnixListener>,
        path: PathBuf,
    }

    impl Control {
        /// Opens the socket. The caller holds the lock of the home folder, so a socket that is there is a
        /// dead node's.
        pub fn open(home: &Path) -> Result<Control, Failure> {
            crate::home::inner(home, "run")?;
            let path = path(home);
            let failed = |error: io::Error| {
                let message = format!("the control socket {} can't be opened: {error}", path.display());
                Failure::new(Exit::Failure, message)
            };
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
                _ => {}
            }
            let listener = UnixListener::bind(&path).map_err(failed)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
            let listener = Async::new(listener).map_err(failed)?;
            Ok(Control { listener, path })
        }

        /// Answers questions for ever, so many at once.
        pub async fn run(&self, executor: &LocalExecutor<'static>, answerer: Answerer) {
            let open = Rc::new(Cell::new(0));
            loop {
                let Ok((stream, _)) = self.listener.accept().await else {
                    Timer::after(ACCEPT_PAUSE).await;
                    continue;
                };
                if open.get() >= QUESTIONS_MAX {
                    continue;
                }
                open.set(open.get() + 1);
                let (open, answerer) = (open.clone(), answerer.clone());
                let serve = async move {
                    // A command that went away has no use for an error.
                    let _ = serve(stream, answerer).await;
                    open.set(open.get() - 1);
                };
                executor.spawn(serve).detach();
            }
        }
    }

    impl Drop for Control {
        fn drop(&mut self) {
            let _ = fs::remove_file(&self.path);
        }
    }

    async fn serve(mut stream: Async<UnixStream>, answerer: Answerer) -> io::Result<()> {
        let question = read_line(&mut stream).or(late()).await?;
        let answer = match question {
            Ok(question) => {
                let word = question["ask"].as_str().unwrap_or_default().to_owned();
                let slow = async {
                    Timer::after(ANSWER_TIME_MAX).await;
                    Err(format!("there was no answer within {} s", ANSWER_TIME_MAX.as_secs()))
                };
                answerer(&word, question).or(slow).await
            }
            Err(refusal) => Err(refusal),
        };
        let line = match answer {
            Ok(answer) => json!({"answer": answer}),
            Err(refusal) => json!({"refusal": refusal}),
        };
        let line = format!("{line}\n");
        async { stream.write_all(line.as_bytes()).await }.or(late()).await
    }

    /// The end of patience with one that does not ask or listen.
    async fn late<T>() -> io::Result<T> {
        Timer::after(QUESTION_TIME_MAX).await;
        Err(io::ErrorKind::TimedOut.into())
    }

    /// The question; the inner `Err` is a refusal of it.
    async fn read_line(stream: &mut Async<UnixStream>) -> io::Result<Result<Value, String>> {
        let mut line = Vec::new();
        let mut bytes = [0; 1024];
        while !line.contains(&b'\n') {
            let count = stream.read(&mut bytes).await?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            line.extend_from_slice(&bytes[..count]);
            if line.len() > QUESTION_BYTES_MAX {
                return Ok(Err(format!("a question has at most {QUESTION_BYTES_MAX} bytes")));
            }
        }
        Ok(serde_json::from_slice(&line).map_err(|error| format!("a question is a line of JSON: {error}")))
    }

    /// Asks the running node of a home folder.
    ///
    /// # Errors
    /// [`Exit::NotRunning`] if there is none; the node's refusal as [`Exit::Failure`].
    pub fn ask(home: &Path, question: &Value) -> Result<Value, Failure> {
        let failed = |error: io::Error| {
            Failure::new(
                Exit::Failure,
                format!("the running node does not answer on its control socket: {error}"),
            )
        };
        let mut stream =
            UnixStream::connect(path(home)).map_err(|error| match crate::lock::running(home) {
                None => {
                    let message = format!("no node runs in {}; `kwaainet start` starts one", home.display());
                    Failure::new(Exit::NotRunning, message)
                }
                Some(_) => failed(error),
            })?;
        stream.set_read_timeout(Some(ANSWER_TIME_MAX + QUESTION_TIME_MAX)).map_err(failed)?;
        stream.set_write_timeout(Some(QUESTION_TIME_MAX)).map_err(failed)?;
        stream.write_all(format!("{question}\n").as_bytes()).map_err(failed)?;
        let mut answer = Vec::new();
        stream.take(ANSWER_BYTES_MAX as u64 + 1).read_to_end(&mut answer).map_err(failed)?;
        let mut answer: Value = serde_json::from_slice(&answer).map_err(|error| failed(error.into()))?;
        match &answer["refusal"] {
            Value::String(refusal) => Err(Failure::new(Exit::Failure, refusal.clone())),
            _ => Ok(answer["answer"].take()),
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        /// Opens a socket whose answerer repeats the question, and gives what `client` saw.
        fn with_echo<T: Send>(name: &str, client: impl FnOnce(&Path) -> T + Send) -> T {
            let home = std::env::temp_dir().join(format!("kwaainet-control-{}-{name}", std::process::id()));
            let control = Control::open(&home).unwrap();
            let executor = LocalExecutor::new();
            let answerer: Answerer = Rc::new(|word, question| {
                let word = word.to_owned();
                Box::pin(async move { if word == "no" { Err("never".to_owned()) } else { Ok(question) } })
            });
            let seen = std::thread::scope(|scope| {
                let (sender, receiver) = smol::channel::bounded(1);
                let home = &home;
                scope.spawn(move || sender.send_blocking(client(home)).unwrap());
                let serve = async {
                    control.run(&executor, answerer).await;
                    unreachable!("the socket is served for ever")
                };
                smol::block_on(executor.run(async { receiver.recv().await.unwrap() }.or(serve)))
            });
            drop(control);
            assert!(!path(&home).exists());
            fs::remove_dir_all(&home).unwrap();
            seen
        }

        #[test]
        fn questions_are_answered_and_refused() {
            with_echo("questions", |home| {
                let question = json!({"ask": "echo", "peer": "a"});
                assert_eq!(ask(home, &question).unwrap(), question);
                let refused = ask(home, &json!({"ask": "no"})).unwrap_err();
                assert_eq!((refused.exit, refused.message.as_str()), (Exit::Failure, "never"));
                assert_eq!(fs::metadata(path(home)).unwrap().permissions().mode() & 0o777, 0o600);
            });
        }

        #[test]
        fn a_question_is_read_up_to_its_longest() {
            with_echo("longest", |home| {
                let send = |bytes: &[u8]| {
                    let mut stream = UnixStream::connect(path(home)).unwrap();
                    stream.write_all(bytes).unwrap();
                    let mut answer = String::new();
                    stream.read_to_string(&mut answer).unwrap();
                    answer
                };
                let longest = format!("{{\"ask\": \"{}\"}}\n", "a".repeat(QUESTION_BYTES_MAX - 12));
                assert!(send(longest.as_bytes()).starts_with("{\"answer\""));
                assert!(send(&[b' '; QUESTION_BYTES_MAX + 1]).contains("at most"));
                assert!(send(b"status\n").contains("line of JSON"));
            });
        }

        #[test]
        fn so_many_questions_are_taken_at_once_and_no_more() {
            with_echo("many", |home| {
                let connect = || UnixStream::connect(path(home)).unwrap();
                let mut open: Vec<UnixStream> = (0..QUESTIONS_MAX).map(|_| connect()).collect();
                assert_eq!(connect().read(&mut [0]).unwrap(), 0);
                let mut last = open.pop().unwrap();
                last.write_all(b"{\"ask\": \"echo\"}\n").unwrap();
                assert!(last.read(&mut [0]).unwrap() > 0);
            });
        }

        #[test]
        fn without_a_node_the_code_says_so() {
            let home = std::env::temp_dir().join("kwaainet-control-none");
            assert_eq!(ask(&home, &json!({})).unwrap_err().exit, Exit::NotRunning);
        }
    }
}

/// Other systems than Unix have no such socket; `serve` works there, `start` says why it does not.
#[cfg(not(unix))]
mod elsewhere {
    use smol::LocalExecutor;

    use super::*;

    const WHY: &str = "a node and its commands meet at a Unix socket, which this system is not served with";

    /// What does not exist here.
    pub struct Control {}

    impl Control {
        /// Says why there is none.
        pub fn open(_home: &Path) -> Result<Control, Failure> {
            Err(Failure::new(Exit::Failure, WHY))
        }

        /// Waits for ever.
        pub async fn run(&self, _executor: &LocalExecutor<'static>, _answerer: Answerer) {
            std::future::pending().await
        }
    }

    /// Says why nobody can be asked.
    pub fn ask(_home: &Path, _question: &Value) -> Result<Value, Failure> {
        Err(Failure::new(Exit::NotRunning, WHY))
    }
}
