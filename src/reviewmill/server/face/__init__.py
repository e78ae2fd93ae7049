"""What a chat request asks, and how analyses look as an answer. Pure: no network, no clock."""
