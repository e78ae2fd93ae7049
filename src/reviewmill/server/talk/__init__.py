"""What people and a chat program talk about: attached files, sets of analysed comments, questions about them."""
