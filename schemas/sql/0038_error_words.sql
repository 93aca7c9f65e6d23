-- Errors that differ in an id such as ORD17 are one group, as those that differ in a number are: a person sees three causes,
-- and not one for each message.

SET LOCAL ROLE txb_owner;

-- Whoever writes a failed message waits until all groups are made by the same function. EXCLUSIVE and not less: a session
-- that has locked a row and is about to change it would wait for this transaction, and this one for it.
LOCK TABLE txb.failed IN EXCLUSIVE MODE;

-- As in 0009, but for words that hold a digit: all of such a word goes, with what stands between the digits of a number, an
-- address or a version (1.200,50, 10.0.0.1:5432, v1.2.3) and the names behind a dot (web7.example.com, file7.txt). A word
-- without a digit behind a comma or a colon stays (apply.sql:17:syntax): it may be the cause. Letters are ASCII's: so no
-- collation has a say in it, and of a text without spaces no more goes than the number.
CREATE OR REPLACE FUNCTION txb.error_pattern(error_class text, sqlstate text, error text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN concat_ws(' ', error_class, sqlstate,
                 left(regexp_replace(regexp_replace(regexp_replace(
                        regexp_replace(error, '[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}', '?', 'g'),
                        '"[^"]*"|''[^'']*''|\([^()]*\)', '?', 'g'),
                        '[0-9A-Za-z_]*[0-9][0-9A-Za-z_]*(?:[.,:]+[0-9A-Za-z_]*[0-9][0-9A-Za-z_]*|[.][0-9A-Za-z_]+)*[.,:]*',
                        '?', 'g'), '\s+', ' ', 'g'), 300));
COMMENT ON FUNCTION txb.error_pattern(text, text, text) IS
  'An error without words that hold a digit, ids and quoted values: failed messages with the same one are one group';
COMMENT ON COLUMN txb.failed.error_group IS 'The error without words that hold a digit, ids and quoted values';

-- The column is computed anew where a column that it is made of is set. No trigger is about the error.
UPDATE txb.failed AS f SET error = f.error
 WHERE f.error_group IS DISTINCT FROM txb.error_pattern(f.error_class, f.sqlstate, f.error) COLLATE "C";

RESET ROLE;
