-- Who holds the source while we stand by. $1 source
SELECT r.epoch, r.owner, r.instance, r.lease_until
  FROM txb.relay AS r
 WHERE r.source = $1 AND r.owner IS NOT NULL
