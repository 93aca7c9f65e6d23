-- What a handler may have changed of the session (W11). The worker's own settings came with the connection and are what
-- RESET goes back to.
RESET ALL
