//! HTTP, WebSocket, BOSH, sessions and room tasks around the conference.
