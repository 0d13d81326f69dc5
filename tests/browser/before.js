// jQuery calls itself jQuery; the build of 2022 looks for its package's name.
window.jquery = window.jQuery;
