//! A headless client over the real signalling: the tests' and tools' people.
