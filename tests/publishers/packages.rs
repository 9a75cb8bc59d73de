//! What each library is by itself: its types, what its package holds, its own tests, and the example of its README, run.
