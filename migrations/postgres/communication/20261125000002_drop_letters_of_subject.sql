-- The letters of a message that can still bring it back are found through `dead_letters_open`.
DROP INDEX dead_letters_subject;
